"""Sanity checks: an explanation must depend on the model, on the clip and on the class, and on little else.

- *Cascading randomization* (Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018): weights are replaced by
  fresh ones from the head down to the backbone, and heat is compared with that of the trained model by Spearman's rank
  correlation over feature cells of all frames. Heat that stays does not explain what was learned.
- *Another clip*: the same correlation between heat of different clips. Heat that is the same everywhere is a habit.
- *The other target*: between evidence for "fake" and for "real". Heat that is the same for both speaks for neither.
- *Max-sensitivity* (Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019): the largest
  change of heat, relative to its norm, under uniform noise of at most `NOISE` of the input.
- *Conservation*: relevance that arrives over what was explained: of LRP the tokens' (its stabilizer keeps some), of
  AttnLRP that of pixels and of everything that keeps some; of SHAP the sum of all values over what they share out,
  the logit less that of a clip of which nothing is left.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from istvt.config import (
    EXPLANATION_BASELINES,
    INTEGRATED_GRADIENTS,
    LONGEST_TIME_LIMIT,
    TOKEN_RELEVANCE,
    FaithfulnessSettings,
    Target,
)
from istvt.explain.explanation import explain
from istvt.explain.faithfulness.heat import heat_of
from istvt.explain.faithfulness.results import Sanity, SanityRow, VideoMean
from istvt.model.istvt import ISTVT

NOISE = 2 / 127.5  # two gray levels
NOISE_DRAWS = 3

# A check passes where the whole 95 % interval of its mean is on the right side of this.
LIMITS = {"randomized": 0.5, "other clip": 0.9, "other target": 0.5, "max-sensitivity": 1.0, "conservation": 0.2}


def check_sanity(model: ISTVT, clips: Tensor, videos: Sequence[str], settings: FaithfulnessSettings) -> Sanity:
    """Run every check of every method that needs nothing but the clip and looks at it.

    Args:
        model: on the device to use.
        clips: [B, T, 3, H_i, W_i], two or more.
        videos: names of the clips' videos.
        settings: with the methods, the stabilizer and the seed.
    """
    others = (INTEGRATED_GRADIENTS, *EXPLANATION_BASELINES)
    methods = [method for method in settings.methods if method not in others]
    chosen = replace(settings, methods=tuple(methods))

    def cells(model: ISTVT, clips: Tensor, target: Target = "fake") -> dict[str, np.ndarray]:
        heat = heat_of(model, clips, chosen, {}, target=target)
        return {method: _pooled(values, model.config.feature_grid) for method, values in heat.items()}

    trained = cells(model, clips)
    other_target = cells(model, clips, "real")
    cascade: dict[str, list[list[float]]] = {method: [] for method in methods}
    stages = []
    for stage, randomized in cascaded(model, settings.seed):
        stages.append(stage)
        for method, values in cells(randomized, clips).items():
            cascade[method].append(_correlations(trained[method], values))
    sensitivity = {method: np.zeros(len(clips)) for method in methods}
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(NOISE_DRAWS):
        noise = NOISE * (2 * torch.rand(clips.shape, generator=generator) - 1).to(clips)
        for method, values in cells(model, clips + noise).items():
            sensitivity[method] = np.maximum(sensitivity[method], _relative_change(trained[method], values))
    conserved = _conservation(model, clips, chosen)
    return Sanity(
        stages,
        list(videos),
        {
            method: SanityRow(
                cascade=cascade[method],
                other_clip=_correlations(trained[method], np.roll(trained[method], 1, axis=0)),
                other_target=_correlations(trained[method], other_target[method]),
                sensitivity=sensitivity[method].tolist(),
                conservation=conserved.get(method),
            )
            for method in methods
        },
    )


def cascaded(model: ISTVT, seed: int) -> Iterator[tuple[str, ISTVT]]:
    """Yield a copy of a model in which more and more weights are fresh: head, blocks from the last one, the rest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = ISTVT(model.config).state_dict()
    randomized = copy.deepcopy(model)
    state = randomized.state_dict()
    stages = [("head", ("head", "norm.", "head_norm"))]
    stages += [(f"block {block}", (f"blocks.{block}.",)) for block in reversed(range(model.config.depth))]
    stages += [("backbone", ("",))]
    for stage, prefixes in stages:
        state |= {name: fresh[name].to(value) for name, value in state.items() if name.startswith(prefixes)}
        randomized.load_state_dict(state)
        yield stage, randomized


def verdicts(row: SanityRow) -> dict[str, tuple[VideoMean | None, bool | None]]:
    """Return by check the mean over clips with its interval, and whether it passes; (None, None) where it has none."""
    found: dict[str, tuple[VideoMean | None, bool | None]] = {}
    for name, values in (
        ("randomized", row.cascade[-1]),
        ("other clip", row.other_clip),
        ("other target", row.other_target),
        ("max-sensitivity", row.sensitivity),
    ):
        mean = _mean(values)
        found[name] = mean, mean.high < LIMITS[name]
    if row.conservation is None:
        return found | {"conservation": (None, None)}
    mean = _mean(row.conservation)
    near = max(abs(mean.low - 1), abs(mean.high - 1)) <= LIMITS["conservation"]
    return found | {"conservation": (mean, near)}


def _mean(values: Sequence[float], resamples: int = 2000) -> VideoMean:
    """Return the mean over clips, one a video, with the bootstrap's interval."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (resamples, len(values)))
    low, high = np.quantile(drawn.mean(1), (0.025, 0.975))
    return VideoMean(float(np.mean(values)), float(low), float(high), len(values))


def _conservation(model: ISTVT, clips: Tensor, settings: FaithfulnessSettings) -> dict[str, list[float]]:
    found = {}
    if {"lrp", TOKEN_RELEVANCE} & set(settings.methods):
        relevance = explain(model, clips, stabilizer=settings.stabilizer).token_relevance
        arrived = relevance.flatten(1).sum(1, dtype=torch.float64).tolist()
        found = dict.fromkeys(("lrp", TOKEN_RELEVANCE), arrived)
    if "attnlrp" in settings.methods:
        found["attnlrp"] = explain(model, clips, method="attnlrp").conservation.tolist()
    if "shap" in settings.methods:
        rules = {"evaluations": settings.evaluations, "time_limit": LONGEST_TIME_LIMIT}
        result = explain(model, clips, method="shap", **rules)
        explained = result.logits - result.shapley.baseline_logits
        found["shap"] = (result.pixels.flatten(1).sum(1, dtype=torch.float64) / explained).tolist()
    return found


def _pooled(heat: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return heat [B, T, H_i, W_i] as means over as many fields as there are feature cells, [B, T, H, W]."""
    return functional.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(heat)), grid).numpy()


def _correlations(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Return Spearman's rank correlation of each clip; flat heat, which ranks nothing, is like nothing: 0."""
    found = []
    for one, other in zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True):
        flat = np.ptp(one) == 0 or np.ptp(other) == 0
        found.append(0.0 if flat else float(spearmanr(one, other).statistic))
    return found


def _relative_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the norm of the change of each clip over the norm before: 1 where there was no heat, 0 if none came."""
    change, norm = (np.sqrt((x.reshape(len(x), -1) ** 2).sum(1, dtype=np.float64)) for x in (after - before, before))
    return np.divide(change, norm, out=np.where(change > 0, 1.0, 0.0), where=norm > 0)
