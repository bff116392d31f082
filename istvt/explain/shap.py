"""SHAP: Shapley values of the tiles and frames of a clip, estimated by Captum over sampled orders.

A clip is a game of players, each a tile of the picture in a span of frames. What a coalition is worth is the model's
logit of the clip of which only the coalition is left, v(S); all other pixels are *removed*: filled from what is left
around them in the same frame (`remove` of `istvt.explain.faithfulness.deletion`, which the deletion curves use), or
mid-gray in a frame of which nothing is left. With S the players before i in an order of all of them::

    phi_i = mean over all orders of v(S + i) - v(S)
    sum over i of phi_i = v(all) - v(none)                        (efficiency)

The mean over all orders is estimated from some (Castro, Gomez and Tejada, "Polynomial calculation of the Shapley value
based on sampling", Computers & Operations Research 2009), each followed by its reverse, whose errors partly cancel
(Mitchell et al., "Sampling Permutations for Shapley Value Estimation", JMLR 2022). Efficiency holds order by order, so
its error is rounding; how far values are from those of all orders is said by their standard error.

Nothing is asked of the model but logits: every architecture can be explained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataloading.errors import InputError
from istvt.config import HeatmapSettings
from istvt.explain.faithfulness.deletion import remove

BASELINE = (
    "pixels of a tile that is taken away are filled from what is left around them in the same frame; a frame of "
    "which nothing is left is mid-gray"
)
# Frames x height x width that the model sees at once: four clips of the paper's size, at most 64 small ones.
_PIXELS_AT_ONCE, _CLIPS_AT_ONCE = 4 * 6 * 300 * 300, 64


@dataclass
class GameValues:
    """Shapley values of one game.

    Attributes:
        values: float64 [players].
        errors: float64 [players], standard errors over pairs of orders; NaN where there were fewer than two pairs.
        none, all: worth of the empty coalition and of all players.
        evaluations: coalitions whose worth was asked for.
    """

    values: np.ndarray
    errors: np.ndarray
    none: float
    all: float
    evaluations: int

    @property
    def additivity_error(self) -> float:
        """Absolute difference of the sum of all values and v(all) - v(none)."""
        return float(abs(self.values.sum() - (self.all - self.none)))


@dataclass
class ShapleyValues:
    """Shapley values of the clips of a batch, in units of the logit.

    Attributes:
        values: [B, spans, tiles, tiles]; positive speaks for the target.
        errors: standard errors of them; NaN where the evaluations are too few for two pairs of orders.
        baseline_logits: [B], of the clip of which nothing is left, positive = fake.
        additivity_error: [B], |sum of the values - (logit - baseline logit)|.
        evaluations: of the model for each clip.
    """

    values: Tensor
    errors: Tensor
    baseline_logits: Tensor
    additivity_error: Tensor
    evaluations: int

    def of_clip(self, number: int) -> dict[str, Any]:
        """Return what `explanation.json` holds of one clip."""
        error = self.errors[number].max().item()
        return {
            "evaluations": self.evaluations,
            "baseline": BASELINE,
            "baseline_logit": self.baseline_logits[number].item(),
            "sum": self.values[number].sum().item(),
            "additivity_error": self.additivity_error[number].item(),
            "largest_value": self.values[number].abs().max().item(),
            "largest_standard_error": error if np.isfinite(error) else None,
            "values": self.values[number].tolist(),
        }


def shapley_values(
    worth: Callable[[Tensor], Tensor],
    players: int,
    evaluations: int,
    seed: int = 0,
    at_once: int = 64,
    advance: Callable[[int], None] | None = None,
) -> GameValues:
    """Estimate the Shapley values of a game.

    Args:
        worth: of coalitions, bool [n, players] -> [n].
        players: how many.
        evaluations: of coalitions, at most; those of no and of all players are asked for once.
        seed: of the orders.
        at_once: coalitions in one call of `worth`.
        advance: called with the evaluations that were done.

    Raises:
        InputError: the evaluations are too few for a single order.
    """
    from captum.attr import ShapleyValueSampling

    count = _orders(players, evaluations)
    ends = worth(torch.tensor([[False], [True]]).expand(2, players)).double()
    asked = 2

    def forward(chosen: Tensor) -> Tensor:
        nonlocal asked
        chosen = chosen > 0.5
        found = ends[chosen.any(1).long()]
        between = chosen.any(1) & ~chosen.all(1)
        if between.any():
            found[between] = worth(chosen[between]).to(found)
            asked += int(between.sum())
            if advance:
                advance(asked)
        return found

    estimator, inputs = ShapleyValueSampling(forward), torch.ones(1, players, dtype=torch.float64)
    orders = _antithetic_orders(players, seed)
    rows = []
    for _ in range(count):  # one by one, for their spread
        estimator.permutation_generator = lambda *_: [next(orders)]
        row = estimator.attribute(inputs, torch.zeros_like(inputs), n_samples=1, perturbations_per_eval=at_once)
        rows.append(row[0].double().numpy())
    pairs = np.stack([np.mean(rows[at : at + 2], axis=0) for at in range(0, count, 2)])
    spread = pairs.std(0, ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else np.full(players, np.nan)
    return GameValues(pairs.mean(0), spread, *ends.tolist(), asked)


def explain_by_shap(
    forward: Callable[[Tensor], Tensor],
    clips: Tensor,
    sign: Tensor,
    settings: HeatmapSettings,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor, ShapleyValues]:
    """Return logits [B], the values spread over pixels [B, T, H_i, W_i], and the values themselves.

    Each pixel has an equal part of its player's value, so that the sum over a clip is that of the values.

    Args:
        forward: logits [n] of clips [n, T, 3, H_i, W_i].
        clips: [B, T, 3, H_i, W_i] in [-1, 1].
        sign: [B], 1 explains the logit and -1 the negated logit.
        settings: with evaluations, tiles, spans and seed.
        advance: called with (evaluations done, of how many).

    Raises:
        InputError: the evaluations are too few for one order of the players, or tiles smaller than a pixel.
    """
    shape = check_evaluations(settings, clips.shape[1], min(clips.shape[-2:]))
    of_pixel = partition(*clips.shape[1:2], *clips.shape[-2:], settings.tiles, settings.spans).to(clips.device)
    players, sizes = int(np.prod(shape)), torch.bincount(of_pixel.flatten()).to(clips)
    in_all = 2 + _orders(players, settings.evaluations) * max(players - 1, 0)  # for each clip
    at_once = max(1, min(_CLIPS_AT_ONCE, _PIXELS_AT_ONCE // max(1, of_pixel.numel())))
    games = []
    for number, (clip, toward) in enumerate(zip(clips, sign.tolist(), strict=True)):

        def worth(chosen: Tensor, clip: Tensor = clip, toward: int = toward) -> Tensor:
            removed = ~chosen.to(clip.device)[:, of_pixel]
            return toward * forward(remove(clip.expand(len(chosen), *clip.shape), removed)).double().cpu()

        def done(evaluations: int, number: int = number) -> None:
            if advance:
                advance(number * in_all + evaluations, len(clips) * in_all)

        games.append(shapley_values(worth, players, settings.evaluations, settings.seed, at_once, done))
    values, errors = (
        torch.tensor(np.array([getattr(game, name) for game in games]).reshape(-1, *shape))
        for name in ("values", "errors")
    )
    signs = sign.double().cpu()
    found = ShapleyValues(
        values,
        errors,
        baseline_logits=signs * torch.tensor([game.none for game in games], dtype=torch.float64),
        additivity_error=torch.tensor([game.additivity_error for game in games], dtype=torch.float64),
        evaluations=max((game.evaluations for game in games), default=0),
    )
    logits = (signs * torch.tensor([game.all for game in games], dtype=torch.float64)).to(clips)
    return logits, (values.flatten(1).to(clips) / sizes)[:, of_pixel], found


def check_evaluations(settings: HeatmapSettings, frames: int, side: int) -> tuple[int, int, int]:
    """Return spans, rows and columns of the players of a clip of so many frames, with pictures of this side.

    Raises:
        InputError: the evaluations are too few for one order of the players, or tiles smaller than a pixel.
    """
    if settings.tiles > side:
        raise InputError(f"tiles is {settings.tiles}; expected at most {side}, the side of the picture in pixels")
    shape = (min(settings.spans, frames), settings.tiles, settings.tiles)
    _orders(int(np.prod(shape)), settings.evaluations)
    return shape


def partition(frames: int, height: int, width: int, tiles: int, spans: int) -> Tensor:
    """Return the player of each pixel, int64 [frames, height, width]: span of frames, then row, then column.

    Parts are as equal as whole frames and pixels allow.
    """
    spans = min(spans, frames)
    when, down, across = (
        torch.arange(size) * parts // size for size, parts in ((frames, spans), (height, tiles), (width, tiles))
    )
    return (when[:, None, None] * tiles + down[:, None]) * tiles + across


def _orders(players: int, evaluations: int) -> int:
    """Return for how many orders the evaluations are enough; an even number, unless it is one.

    Raises:
        InputError: for none.
    """
    least = 2 + max(players - 1, 0)
    if evaluations < least:
        raise InputError(
            f"evaluations is {evaluations}; expected at least {least}, which one order of {players} players (tiles "
            "times tiles times spans) takes"
        )
    count = (evaluations - 2) // max(players - 1, 1)
    return count if count < 2 else count - count % 2


def _antithetic_orders(players: int, seed: int) -> Iterator[list[int]]:
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(players).tolist()
        yield order
        yield order[::-1]
