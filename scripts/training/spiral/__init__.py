"""Spiral arms: points made from a seed, and the options of train_spiral.py."""
