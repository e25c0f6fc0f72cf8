"""Draws mutants, finds out which tests reach them, and tries them; `benchmarks/mutants.py` is the command."""
