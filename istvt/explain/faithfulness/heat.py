"""Heat of clips by every method that is measured: those of `istvt.explain.explain`, a ceiling and three baselines.

Heat is one number for each pixel of each frame, `[B, T, H_i, W_i]`, of the evidence for "fake". Its sum over frames
says *where*, its sum over a frame *when*, so that one picture has to answer both.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from istvt.config import (
    EXPLANATION_BASELINES,
    INTEGRATED_GRADIENTS,
    LONGEST_TIME_LIMIT,
    RULES,
    TOKEN_RELEVANCE,
    FaithfulnessSettings,
    Target,
)
from istvt.device import in_evaluation_mode
from istvt.explain import heatmap
from istvt.explain.explanation import Explanation, explain
from istvt.model.istvt import ISTVT

PATH_STEPS = 8  # of integrated gradients: points between original and fake, the midpoints of as many equal pieces
CENTER_BLOB_DEVIATION = 1 / 6  # of the picture's side
MOTION, CENTER_BLOB, RANDOM = EXPLANATION_BASELINES


def heat_of(
    model: ISTVT,
    clips: Tensor,
    settings: FaithfulnessSettings,
    random: Mapping[str, np.random.Generator],
    originals: Tensor | None = None,
    target: Target = "fake",
) -> dict[str, np.ndarray]:
    """Return the heat of clips by method.

    Args:
        model: on the device to use.
        clips: [B, T, 3, H_i, W_i].
        settings: with the methods, the stabilizer of `lrp`, the evaluations of `shap` and steps of `counterfactual`.
        random: the stream of `random`, by method.
        originals: the same clips before they were forged; without them there are no integrated gradients.
        target: whose evidence is explained.

    Returns:
        By method float32 [B, T, H_i, W_i]. Methods that explain cells are brought to pixels, those that explain
        pixels are blurred as the pages draw them (`istvt.explain.heatmap.smooth`).
    """
    found: dict[str, np.ndarray] = {}
    height, width = clips.shape[-2:]
    lrp: Explanation | None = None
    for method in settings.methods:
        if method in EXPLANATION_BASELINES:
            found[method] = _baseline(method, clips, model.config.feature_grid, random.get(method))
        elif method == INTEGRATED_GRADIENTS:
            if originals is not None:
                relevance = integrated_gradients(model, clips, originals).sum(2) * (1 if target == "fake" else -1)
                found[method] = _blurred(relevance)
        elif method in ("lrp", TOKEN_RELEVANCE):
            lrp = lrp or explain(model, clips, target=target, stabilizer=settings.stabilizer)
            cells = token_cells(model, lrp) if method == TOKEN_RELEVANCE else cell_heat(lrp)
            found[method] = heatmap.upscale(cells, height, width)
        else:
            rules = {name: getattr(settings, name) for name in ("evaluations", "steps") if name in RULES[method]}
            if rules:  # many clips, and a bar that says how long they take
                rules["time_limit"] = LONGEST_TIME_LIMIT
            result = explain(model, clips, target=target, method=method, **rules)
            if result.pixels is not None:
                found[method] = _blurred(result.pixels)
            else:
                found[method] = heatmap.upscale(cell_heat(result), height, width)
    return found


def cell_heat(explanation: Explanation) -> np.ndarray:
    """Return the heat of cells, float32 [B, T, H, W]: the temporal, spatial and class row's maps as they are, added.

    Their unit is the same. Stretched to the same range, a map that says little would count as much as one that says
    nearly everything. The class row's map belongs to no frame, and each gets the same part of it.
    """
    temporal, frames = explanation.temporal, explanation.temporal.shape[1]
    return (temporal + explanation.spatial + explanation.class_row.unsqueeze(1) / frames).float().cpu().numpy()


def token_cells(model: ISTVT, explanation: Explanation) -> np.ndarray:
    """Return the positive part of the relevance of each cell's token, float32 [B, T, H, W]."""
    config = model.config
    rows, columns = int(config.has_temporal_row), int(config.has_spatial_column)
    relevance = explanation.token_relevance[:, rows:, columns:].sum(-1).unflatten(-1, config.feature_grid)
    return relevance.clamp(min=0).float().cpu().numpy()


def integrated_gradients(model: ISTVT, clips: Tensor, originals: Tensor, steps: int = PATH_STEPS) -> Tensor:
    """Integrate the logit's gradient along the line from the originals to the clips (Sundararajan et al., ICML 2017).

    The baseline is the true counterfactual, which no method knows that sees the fake alone: it is a ceiling. Summed
    over a clip the result is the difference of the two logits, up to the error of the midpoint rule.

    Args:
        model: any mode; it is used in evaluation mode.
        clips, originals: [B, T, 3, H_i, W_i].
        steps: gradients that are averaged.

    Returns:
        [B, T, 3, H_i, W_i], in units of the logit.
    """
    total = torch.zeros_like(clips)
    with in_evaluation_mode(model), torch.enable_grad():
        for step in range(steps):
            at = torch.lerp(originals, clips, (step + 0.5) / steps).requires_grad_()
            total += torch.autograd.grad(model(at).sum(), at)[0]
    return (clips - originals) * total / steps


def marginals(heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where, [B, H_i, W_i], and when, [B, T], of heat [B, T, H_i, W_i]."""
    return heat.sum(1), heat.sum((2, 3), dtype=np.float64)


def _blurred(relevance: Tensor) -> np.ndarray:
    return np.stack([heatmap.smooth(one) for one in relevance.float().cpu().numpy()])


def _baseline(method: str, clips: Tensor, grid: tuple[int, int], random: np.random.Generator | None) -> np.ndarray:
    batch, frames, _, height, width = clips.shape
    if method == MOTION:  # how far each pixel is from its mean over the clip
        return _blurred((clips - clips.mean(1, keepdim=True)).abs().sum(2))
    if method == RANDOM:
        return heatmap.upscale(random.random((batch, frames, *grid), np.float32), height, width)
    down, across = ((np.arange(side) + 0.5) / side - 0.5 for side in (height, width))
    blob = np.exp(-(down[:, None] ** 2 + across**2) / (2 * CENTER_BLOB_DEVIATION**2)).astype(np.float32)
    return np.broadcast_to(blob, (batch, frames, height, width))
