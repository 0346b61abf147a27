"""What every package may use: the standard library alone."""
