"""What the analysis commands share: parsers of each log, run folders, tables. Never torch."""
