"""Evaluation of a checkpoint as files: metrics, scores, charts and one HTML report."""
