"""Metrics of video scores: accuracy, AUC, equal error rate, each with its confidence interval."""
