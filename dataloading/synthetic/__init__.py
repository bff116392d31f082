"""A synthetic set of talking-head-like videos in the shape of FaceForensics++."""

from dataloading.synthetic.tree import SyntheticSummary, synthesize

__all__ = ["SyntheticSummary", "synthesize"]
