"""Heatmaps of clips of video files, decoded and cropped by the loader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip
from dataloading.video.processes import Workers
from istvt.config import ExplanationSettings
from istvt.explain import heatmap
from istvt.explain.explanation import explain
from istvt.inference.video_score import probability_of
from istvt.model.istvt import ISTVT


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
        pixels: float32 [T, h, w], relevance of pixels, with method attnlrp.
        conservation, arrived: of the relevance, with method attnlrp; see `Explanation`.
    """

    clip: Clip
    logit: float
    target: str
    temporal: np.ndarray
    spatial: np.ndarray
    class_row: np.ndarray
    shares: dict[str, float]
    pixels: np.ndarray | None = None
    conservation: float | None = None
    arrived: float | None = None

    @property
    def probability(self) -> float:
        """Probability that the clip is fake."""
        return float(probability_of(self.logit))

    def maps(self) -> dict[str, np.ndarray]:
        """Return the maps that are shown by name, each [T, H, W], or [1, H, W] where it is one for all frames.

        With attnlrp `spatial` is `temporal` on another scale, and the pixels, smoothed, stand in its place.
        """
        if self.pixels is not None:
            pixels = heatmap.smooth(self.pixels)
            return {"pixels": pixels, "temporal": self.temporal, "whole_clip": self.class_row[None]}
        return {"temporal": self.temporal, "spatial": self.spatial, "class_row": self.class_row[None]}


def explain_clips(
    model: ISTVT,
    clips: Sequence[Clip],
    settings: ExplanationSettings,
    *,
    decoder: str = "auto",
    skipped: list[tuple[Clip, str]] | None = None,
    processes: Workers | None = None,
) -> Iterator[ExplainedClip]:
    """Explain clips one after the other.

    Args:
        model: on the device to use.
        clips: all of the model's number of frames.
        settings: of which `target` is "fake" or "real".
        decoder: of `ClipLoader`; in a sandbox "pyav".
        skipped: receives the clips that cannot be decoded, with the reason.
        processes: in which files are read, such as those with the limits of a sandbox.
    """
    device = next(model.parameters()).device
    if processes and processes.sandbox:
        decoder = "pyav"  # DALI would decode in this process, out of the sandbox
    options = {"device": device, "decoder": decoder, "workers": settings.workers, "processes": processes}
    loader = ClipLoader(list(clips), settings.batch_size, model.config.image_size, **options)
    for batch in loader:
        result = explain(model, batch.clips, target=settings.target, method=settings.method, **settings.rules())
        maps = [x.float().cpu().numpy() for x in (result.temporal, result.spatial, result.class_row)]
        shares = {name: share.tolist() for name, share in result.shares().items()}
        numbers = {}
        if result.pixels is not None:
            shares["pixels"], shares["whole_clip"] = shares["temporal"], shares["class_row"]
            numbers = {name: getattr(result, name).float().cpu() for name in ("pixels", "conservation", "arrived")}
        for row, index in enumerate(batch.indices.tolist()):
            yield ExplainedClip(
                clips[index],
                result.logits[row].item(),
                settings.target,
                *(x[row] for x in maps),
                shares={name: share[row] for name, share in shares.items()},
                **{name: x[row].numpy() if name == "pixels" else x[row].item() for name, x in numbers.items()},
            )
    if skipped is not None:
        skipped += loader.skipped
