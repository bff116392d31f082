"""Faithfulness of several models on the same clips, as one: trained with other seeds, they scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from istvt.evaluation.intervals import wilson_interval
from istvt.explain.faithfulness.deletion import Faithfulness, Localization, OrderingResult


def average(results: Sequence[Faithfulness]) -> Faithfulness:
    """The means over models that were measured with the same orderings on the same clips.

    Raises:
        ValueError: there is none, or they were measured differently.
    """
    if not results:
        raise ValueError("results is empty; expected one measurement or more.")
    first = results[0]
    for other in results[1:]:
        if [item.ordering for item in other.orderings] != [item.ordering for item in first.orderings] or (
            (other.fractions, other.clips, other.settings) != (first.fractions, first.clips, first.settings)
        ):
            raise ValueError("results differ in orderings, fractions, clips or settings; expected the same of each.")
    orderings = [_mean_ordering(items) for items in zip(*(result.orderings for result in results), strict=True)]
    skipped = sorted({item for result in results for item in result.skipped})
    return replace(first, orderings=orderings, skipped=skipped, evaluated=None)


def _mean_ordering(items: Sequence[OrderingResult]) -> OrderingResult:
    first = items[0]
    return OrderingResult(
        first.ordering,
        [mean(values) for values in zip(*(item.accuracy for item in items), strict=True)],
        [mean(values) for values in zip(*(item.confidence for item in items), strict=True)],
        mean(item.accuracy_area for item in items),
        mean(item.confidence_area for item in items),
        _mean_localizations([item.localization for item in items]),
        {name: _mean_localizations([item.by_manipulation[name] for item in items]) for name in first.by_manipulation},
    )


def _mean_localizations(parts: Sequence[dict[str, Localization]]) -> dict[str, Localization]:
    result = {}
    for kind, first in parts[0].items():
        pointing = [part[kind].pointing for part in parts if part[kind].pointing is not None]
        masses = [part[kind].mass for part in parts if part[kind].mass is not None]
        share = mean(pointing) if pointing else None
        # The models see the same clips: more models do not make the interval narrower.
        low, high = (None, None) if share is None else wilson_interval(round(share * first.clips), first.clips)
        result[kind] = Localization(first.clips, share, low, high, mean(masses) if masses else None)
    return result
