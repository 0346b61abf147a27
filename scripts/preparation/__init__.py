"""What prepare_data.py runs: each workload's sources, and how any data set is put in place."""
