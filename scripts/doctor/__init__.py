"""Look at a cluster: detect, probe, preflight."""
