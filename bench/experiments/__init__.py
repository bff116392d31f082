"""Experiments on the synthetic set that write this repository's documents: `python -m bench experiment`."""
