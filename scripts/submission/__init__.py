"""Submit jobs, follow them, cancel them."""
