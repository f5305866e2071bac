"""Ablations: the models of every scheme and seed, the ways to run them, the file of runs, and their summary."""
