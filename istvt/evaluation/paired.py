"""Paired tests of detectors on the same videos: DeLong's of areas under the ROC curve, over seeds; Holm's correction.

The area of a model's scores is the mean of its *placements*. With psi(x, y) = 1 where x > y, 1/2 where they are equal
and 0 elsewhere, the scores x_1..x_m of fakes and y_1..y_n of real videos, and each model r (DeLong et al. 1988,
Biometrics 44:837):

    V10_r(i) = 1/n sum_j psi(x_i, y_j)      V01_r(j) = 1/m sum_i psi(x_i, y_j)      A_r = mean_i V10_r(i)
    S = cov(V10) / m + cov(V01) / n                          covariance of the areas, [models, models]

A detector that is trained with several seeds has the mean area of its models. Two questions are asked of two detectors:

- *these models, on other videos*: the variance of the difference is w' S w, with w of 1/J_a and -1/J_b;
- *other seeds too*: seeds take the place of readers in studies of many readers (Obuchowski and Rockette 1995, Commun.
  Statist. Simula. 24:285). With the variance s^2 of a detector's areas over its J seeds, the mean covariance c of two
  of its models, and c_ab of a model of each, the variance is s_a^2 / J_a + s_b^2 / J_b + max(c_a + c_b - 2 c_ab, 0),
  and the degrees of freedom are those of Hillis (2007, Statist. Med. 26:596). It needs two seeds of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataloading.dataset import FAKE, REAL
from istvt.evaluation.intervals import resample_counts
from istvt.evaluation.metrics import CONFIDENCE
from istvt.evaluation.results import Estimate

_LIMITS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class PairedTest:
    """Two detectors on the same videos.

    Attributes:
        real, fake: how many videos of each class both have scored.
        auc: difference of the areas, first minus second; its interval answers the question of `p`.
        accuracy: difference of the shares of right verdicts, with the interval of a paired bootstrap over videos.
        p_videos: that the areas differ as much where they are equal for these models, on other videos.
        p_seeds: the same for other seeds, too; None where a detector has one seed.
        reason: why there is no p: one sentence without its full stop, or "".
    """

    real: int
    fake: int
    auc: Estimate
    accuracy: Estimate
    p_videos: float | None
    p_seeds: float | None
    reason: str = ""

    @property
    def p(self) -> float | None:
        """The stricter question that can be answered: other seeds too where each detector has several."""
        return self.p_videos if self.p_seeds is None else self.p_seeds


def delong_covariance(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the areas under the ROC curve of models, and DeLong's covariance of them.

    Args:
        labels: 1 for a fake, int [videos]; two or more of each class.
        scores: the higher, the more fake, [models, videos].

    Returns:
        Areas float64 [models], covariance float64 [models, models].
    """
    from scipy.stats import rankdata  # imported here: it takes a second

    fake, real = scores[:, labels == FAKE], scores[:, labels == REAL]
    m, n = fake.shape[1], real.shape[1]
    # The mid-rank among all minus that among one's own class counts the videos of the other class below.
    among_all = rankdata(np.concatenate([fake, real], axis=1), axis=1)
    of_fakes = (among_all[:, :m] - rankdata(fake, axis=1)) / n  # V10 [models, m]
    of_real = 1 - (among_all[:, m:] - rankdata(real, axis=1)) / m  # V01 [models, n]
    covariance = np.atleast_2d(np.cov(of_fakes)) / m + np.atleast_2d(np.cov(of_real)) / n
    return of_fakes.mean(axis=1), covariance


def paired_test(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    threshold: float = 0.5,
    bootstrap: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Compare two detectors on the same videos; see the module.

    Args:
        labels: 1 for a fake, int [videos].
        first, second: probabilities of "fake" by the models of each detector, float64 [seeds, videos].
        threshold: a video is called fake where its probability is above this.
        bootstrap: resamples behind the interval of the accuracy.
        seed: of the bootstrap.
    """
    real, fake = (int((labels == label).sum()) for label in (REAL, FAKE))
    accuracy = _accuracy_difference(labels, first, second, threshold, bootstrap, seed)
    if min(real, fake) < 2:
        reason = f"{real} real and {fake} fake videos; the test needs two or more of each"
        return PairedTest(real, fake, Estimate(None, reason=reason), accuracy, None, None, reason)
    areas, covariance = delong_covariance(labels, np.concatenate([first, second]))
    of_first = len(first)
    weights = np.repeat([1 / of_first, -1 / len(second)], [of_first, len(second)])
    difference = float(weights @ areas)
    p_videos, half = _two_sided(difference, float(weights @ covariance @ weights), np.inf)
    p_seeds = None
    if min(of_first, len(second)) > 1:
        variance, freedom = _with_seeds(areas, covariance, of_first)
        p_seeds, half = _two_sided(difference, variance, freedom)
    if half is None:
        reason = "no video changes either area, so that nothing is known of their variance"
        return PairedTest(real, fake, Estimate(difference, reason=reason), accuracy, p_videos, p_seeds, reason)
    limits = max(difference - half, -1.0), min(difference + half, 1.0)
    return PairedTest(real, fake, Estimate(difference, *limits, "delong"), accuracy, p_videos, p_seeds)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected by Holm (1979, Scand. J. Statist. 6:65) for all of them; None stays None.

    The chance of even one false rejection among them at a level of .05 is at most .05, however they depend on each
    other.
    """
    order = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for number, (value, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - number) * value))
        corrected[place] = largest
    return corrected


def _two_sided(difference: float, variance: float, freedom: float) -> tuple[float | None, float | None]:
    """Return p of a difference, and half the width of its interval; None where the variance says nothing."""
    from scipy.stats import t

    if variance <= 1e-15:
        return (1.0 if abs(difference) < 1e-12 else None), None
    error = np.sqrt(variance)
    return float(2 * t.sf(abs(difference) / error, freedom)), float(t.ppf(_LIMITS[1], freedom) * error)


def _with_seeds(areas: np.ndarray, covariance: np.ndarray, of_first: int) -> tuple[float, float]:
    """Return the variance of the difference for other seeds and videos, and its degrees of freedom."""
    parts, common = [], 0.0
    for own in (slice(None, of_first), slice(of_first, None)):
        count = len(areas[own])
        parts.append((float(np.var(areas[own], ddof=1)) / count, count - 1))
        block = covariance[own, own]
        common += float(block.sum() - np.trace(block)) / (count * (count - 1))
    common = max(common - 2 * float(covariance[:of_first, of_first:].mean()), 0.0)
    variance = common + sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    return variance, variance**2 / spread if spread > 0 else np.inf


def _accuracy_difference(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, threshold: float, bootstrap: int, seed: int
) -> Estimate:
    of_video = [((scores > threshold) == (labels == FAKE)).mean(axis=0) for scores in (first, second)]
    gain = of_video[0] - of_video[1]  # [videos]
    value = float(gain.mean())
    drawn = np.concatenate([counts @ gain / len(gain) for counts in resample_counts(labels, bootstrap, seed)])
    low, high = np.quantile(drawn, _LIMITS)
    if high - low < 1e-12:
        return Estimate(value, reason="every bootstrap resample gives the same difference")
    return Estimate(value, float(low), float(high), "bootstrap")
