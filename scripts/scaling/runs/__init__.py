"""Runs, their frames, and the study that says which may be compared."""
