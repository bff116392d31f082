"""Heatmaps of clips of video files, decoded and cropped by the loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip
from dataloading.video.processes import Workers
from istvt.config import LONGEST_TIME_LIMIT, ExplanationSettings
from istvt.device import in_evaluation_mode
from istvt.explain import heatmap
from istvt.explain.explanation import explain
from istvt.inference.video_score import probability_of
from istvt.model.detector import Detector

ENLARGED_TO = 64  # gray levels of the largest change, as it is drawn


@dataclass
class ExplainedClip:
    """One clip with its heatmaps.

    Attributes:
        clip: which frames of which video, and the box.
        logit: positive = fake.
        target: "fake" or "real", what is explained.
        temporal, spatial: float32 [T, H, W], relevance as `istvt.explain.explain` gives it, not normalized.
        class_row: float32 [H, W], the spatial map of the class frame.
        shares: of all heat, by map; see `Explanation.shares`.
        method: that explained it.
        pixels: float32 [T, h, w], relevance of pixels, with method attnlrp.
        conservation, arrived: of the relevance, with method attnlrp; see `Explanation`.
        numbers: of shap or counterfactual, as `explanation.json` holds them.
        change: float32 [T, 3, h, w], with method counterfactual, to be added to the clip in [-1, 1].
        mask: float32 [T, h, w], probability of each pixel of the crop of being forged, of a model with a mask head. It
            is a prediction beside the verdict, and no explanation of it.
    """

    clip: Clip
    logit: float
    target: str
    temporal: np.ndarray
    spatial: np.ndarray
    class_row: np.ndarray
    shares: dict[str, float]
    method: str = "lrp"
    pixels: np.ndarray | None = None
    conservation: float | None = None
    arrived: float | None = None
    numbers: dict[str, Any] | None = None
    change: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def probability(self) -> float:
        """Probability that the clip is fake."""
        return float(probability_of(self.logit))

    @property
    def enlargement(self) -> int:
        """How many times the change is enlarged where it is drawn."""
        largest = float(np.abs(self.change).max()) * 255 / 2
        return max(1, round(ENLARGED_TO / largest)) if largest > 0 else 1

    def maps(self) -> dict[str, np.ndarray]:
        """Return the maps that are shown by name, each [T, H, W], or [1, H, W] where it is one for all frames.

        With attnlrp `spatial` is `temporal` on another scale, and the pixels, smoothed, stand in its place. With shap
        and counterfactual each map has a value for each pixel, and what speaks against the target is 0.
        """
        if self.numbers is not None:
            return {_AGNOSTIC_MAPS[self.method]: self.temporal, "whole_clip": self.class_row[None]}
        if self.pixels is not None:
            pixels = heatmap.smooth(self.pixels)
            return {"pixels": pixels, "temporal": self.temporal, "whole_clip": self.class_row[None]}
        return {"temporal": self.temporal, "spatial": self.spatial, "class_row": self.class_row[None]}


_AGNOSTIC_MAPS = {"shap": "tiles", "counterfactual": "change"}


def explain_clips(
    model: Detector,
    clips: Sequence[Clip],
    settings: ExplanationSettings,
    *,
    decoder: str = "auto",
    skipped: list[tuple[Clip, str]] | None = None,
    processes: Workers | None = None,
    advance: Callable[[float], None] | None = None,
) -> Iterator[ExplainedClip]:
    """Explain clips one after the other.

    Args:
        model: on the device to use.
        clips: all of the model's number of frames.
        settings: of which `target` is "fake" or "real".
        decoder: of `ClipLoader`; in a sandbox "pyav".
        skipped: receives the clips that cannot be decoded, with the reason.
        processes: in which files are read, such as those with the limits of a sandbox.
        advance: called with how many clips are explained, those in work in part.
    """
    done = 0

    def within(evaluations: int, of: int) -> None:
        if advance:
            advance(done + evaluations / of * len(batch.indices))

    device = next(model.parameters()).device
    if processes and processes.sandbox:
        decoder = "pyav"  # DALI would decode in this process, out of the sandbox
    options = {"device": device, "decoder": decoder, "workers": settings.workers, "processes": processes}
    loader = ClipLoader(list(clips), settings.batch_size, model.config.image_size, **options)
    rules = settings.rules()
    if "time_limit" in rules:  # of all clips together, checked before
        rules["time_limit"] = LONGEST_TIME_LIMIT
    for batch in loader:
        result = explain(model, batch.clips, target=settings.target, method=settings.method, advance=within, **rules)
        masks = None
        if model.config.makes_masks:
            with torch.inference_mode(), in_evaluation_mode(model):
                masks = model.segment(batch.clips)[1].cpu().numpy()
        maps = [x.float().cpu().numpy() for x in (result.temporal, result.spatial, result.class_row)]
        shares = {name: share.tolist() for name, share in result.shares().items()}
        numbers = {}
        details = result.shapley or result.counterfactual
        change = None if result.counterfactual is None else result.counterfactual.change.float().cpu().numpy()
        if details is not None:
            shares |= {_AGNOSTIC_MAPS[settings.method]: shares["temporal"], "whole_clip": shares["class_row"]}
        elif result.pixels is not None:
            shares["pixels"], shares["whole_clip"] = shares["temporal"], shares["class_row"]
            numbers = {name: getattr(result, name).float().cpu() for name in ("pixels", "conservation", "arrived")}
        for row, index in enumerate(batch.indices.tolist()):
            yield ExplainedClip(
                clips[index],
                result.logits[row].item(),
                settings.target,
                *(x[row] for x in maps),
                shares={name: share[row] for name, share in shares.items()},
                method=settings.method,
                numbers=details and details.of_clip(row),
                change=None if change is None else change[row],
                mask=None if masks is None else masks[row],
                **{name: x[row].numpy() if name == "pixels" else x[row].item() for name, x in numbers.items()},
            )
        done += len(batch.indices)
    if skipped is not None:
        skipped += loader.skipped
