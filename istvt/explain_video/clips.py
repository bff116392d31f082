"""Explanations of clips of video files, as the loader makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip
from istvt.config import DEFAULT_STABILIZER
from istvt.device import in_evaluation_mode
from istvt.explain.explanation import explain
from istvt.inference.video_score import probability_of, verdict_of
from istvt.model.istvt import ISTVT


@dataclass
class ExplainedClip:
    """One clip with its heatmaps.

    Attributes:
        clip: which frames of which video, and the box.
        logit: positive = fake.
        target: "fake" or "real", what is explained.
        temporal, spatial: float32 [T, H, W], relevance as `istvt.explain.explain` gives it, not normalized.
    """

    clip: Clip
    logit: float
    target: str
    temporal: np.ndarray
    spatial: np.ndarray

    @property
    def probability(self) -> float:
        """That the clip is fake."""
        return float(probability_of(self.logit))


def explain_clips(
    model: ISTVT,
    clips: Sequence[Clip],
    *,
    target: str = "verdict",
    method: str = "lrp",
    stabilizer: float | str = DEFAULT_STABILIZER,
    clamp: str = "after_mean",
    order: str = "last_block_first",
    batch_size: int = 4,
    decoder: str = "auto",
    workers: int = 2,
    skipped: list[tuple[Clip, str]] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Iterator[ExplainedClip]:
    """Explain clips one after the other.

    Args:
        model: on the device to use.
        clips: all of the model's number of frames.
        target: "fake", "real", or "verdict" for what the model says of each clip by itself.
        method, stabilizer, clamp, order: of `istvt.explain.explain`.
        batch_size: clips decoded and explained together.
        decoder: of `ClipLoader`.
        workers: threads that decode.
        skipped: receives the clips that cannot be decoded, with the reason.
        advance: called with the number of clips done after each batch.
    """
    device = next(model.parameters()).device
    loader = ClipLoader(
        list(clips), batch_size, model.config.image_size, device=device, decoder=decoder, workers=workers
    )
    for batch in loader:
        settings = {"method": method, "stabilizer": stabilizer, "clamp": clamp, "order": order}
        targets = verdicts(model, batch.clips) if target == "verdict" else [target] * len(batch.clips)
        explained = explain_batch(model, batch.clips, targets, settings)
        for index, parts in zip(batch.indices.tolist(), explained, strict=True):
            yield ExplainedClip(clips[index], *parts)
        if advance:
            advance(len(batch.indices))
    if skipped is not None:
        skipped += loader.skipped


def explain_batch(
    model: ISTVT, clips: torch.Tensor, targets: Sequence[str], settings: dict
) -> Iterator[tuple[float, str, np.ndarray, np.ndarray]]:
    """(logit, target, temporal, spatial) of each of the clips [B, T, 3, H_i, W_i], each with its own target."""
    found = {}
    for chosen in dict.fromkeys(targets):
        places = [place for place, name in enumerate(targets) if name == chosen]
        result = explain(model, clips[places], target=chosen, **settings)
        for row, place in enumerate(places):
            maps = (x[row].float().cpu().numpy() for x in (result.temporal, result.spatial))
            found[place] = (float(result.logits[row]), chosen, *maps)
    for place in sorted(found):
        yield found[place]


def verdicts(model: ISTVT, clips: torch.Tensor) -> list[str]:
    """ "fake" or "real" of each of the clips, as the model says."""
    return [verdict_of(probability) for probability in probability_of(logits_of(model, clips))]


@torch.inference_mode()
def logits_of(model: ISTVT, clips: torch.Tensor) -> np.ndarray:
    """float64 [B] of clips, which the model sees as in `explain`: in evaluation mode and its own dtype."""
    dtype = next(model.parameters()).dtype
    with in_evaluation_mode(model), torch.autocast(clips.device.type, enabled=False):
        return model(clips.to(dtype)).double().cpu().numpy()
