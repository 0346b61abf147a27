"""What render.py, submit.py and doctor.py share: clusters' facts, the jobs, their text."""
