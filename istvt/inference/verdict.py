"""From a logit to the probability that it stands for, and from a probability to the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dataloading.dataset import CLASSES

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# As a positive logit means fake.
DEFAULT_THRESHOLD = 0.5


def probability_of(logits: ArrayLike) -> np.ndarray:
    """The probability that a clip is fake: the logistic function of its logit, float64 and of the same shape.

    Any finite logit gives one, without an overflow on the way.
    """
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


def verdict_of(probability: float, threshold: float = DEFAULT_THRESHOLD) -> str:
    """`"fake"` where the probability is above `threshold`, `"real"` elsewhere."""
    return CLASSES[int(probability > threshold)]
