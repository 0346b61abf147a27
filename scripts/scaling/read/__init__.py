"""One log format per module: path -> records. The standard library alone; knows no run."""
