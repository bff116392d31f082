"""Clips: which frames of which videos, how they are read, the DALI graph, batches."""
