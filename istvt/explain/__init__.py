"""Explanations of a clip's logit: relevance over time and space, pictures of it, and how faithful it is."""

from istvt.config import DEFAULT_STABILIZER, METHODS, TARGETS
from istvt.explain.explanation import Explanation, attribution, explain

__all__ = ["DEFAULT_STABILIZER", "METHODS", "TARGETS", "Explanation", "attribution", "explain"]
