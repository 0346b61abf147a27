"""Tables: one Table, its writers, and each table as a function of runs or a study."""
