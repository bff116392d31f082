"""Why a clip got its logit: relevance in time and in space, what a person looks at, and how faithful it is."""

from istvt.explain.explanation import Explanation, explain
from istvt.explanation_settings import DEFAULT_STABILIZER, METHODS, TARGETS

__all__ = ["DEFAULT_STABILIZER", "METHODS", "TARGETS", "Explanation", "explain"]
