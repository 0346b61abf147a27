"""What render.py, submit.py and doctor.py share: a cluster's facts, the matrix of jobs, the text."""
