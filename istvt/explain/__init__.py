"""Why a clip got its logit: relevance in time and in space, what a person looks at, and how faithful it is."""

from istvt.config import DEFAULT_STABILIZER, METHODS, TARGETS
from istvt.explain.explanation import Explanation, explain

__all__ = ["DEFAULT_STABILIZER", "METHODS", "TARGETS", "Explanation", "explain"]
