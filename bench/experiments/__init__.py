"""Experiments on the synthetic set that write the documents, a file each: `python -m bench experiment` and others."""
