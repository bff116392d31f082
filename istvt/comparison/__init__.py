"""Comparison of detectors: models that are trained and evaluated by one settings file, and the paper's tables of them.

from istvt.comparison.compare import compare
comparison = compare("compare.yaml", "runs/comparison")
print(comparison.markdown)
"""
