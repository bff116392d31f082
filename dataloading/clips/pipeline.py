"""DALI graph that crops, resizes, augments and normalizes clips on a GPU, and on a CPU where DALI decodes there.

Decoded frames (or, where DALI decodes, an encoded file and frame numbers) go in with a box; they are cropped, resized
with antialiasing, augmented, and scaled from [0, 255] to [-1, 1]. Whatever is random is drawn outside, one draw a clip,
and applied to all of its frames alike: a change from frame to frame would be a temporal trace of its own. Frames that
are decoded and stay on a CPU take `dataloading.clips.cpu_pipeline`, which gives the same in less time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dataloading.errors import InputError

if TYPE_CHECKING:
    import torch  # worker processes, which read clips, do without the seconds of its import


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges and probabilities of training augmentation; one draw for all frames of a clip.

    Attributes:
        flip: Probability of mirroring left and right.
        brightness, contrast, saturation: Each is multiplied by a factor from 1 - this to 1 + this; see `Draw.colors`.
        compression: Probability of a JPEG round trip.
        lowest_quality: JPEG quality is drawn from this to 95.
    """

    flip: float = 0.5
    brightness: float = 0.15
    contrast: float = 0.15
    saturation: float = 0.15
    compression: float = 0.2
    lowest_quality: int = 60

    def draw(self, random: np.random.Generator) -> Draw:
        """Draw the augmentation of one clip."""
        flip, compress = random.random(2) < (self.flip, self.compression)
        around = np.array([self.brightness, self.contrast, self.saturation])
        brightness, contrast, saturation = 1 + around * random.uniform(-1, 1, 3)
        quality = int(random.integers(self.lowest_quality, 96)) if compress else UNCOMPRESSED
        return Draw(bool(flip), float(brightness), float(contrast), float(saturation), quality)


UNCOMPRESSED = 101
MID_GRAY = 127.5
_LUMA = 0.299, 0.587, 0.114  # of red, green and blue in the gray of a color, by ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Draw:
    """Augmentation drawn for one clip; the defaults change nothing."""

    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    quality: int = UNCOMPRESSED

    @property
    def changes_colors(self) -> bool:
        """Whether brightness, contrast or saturation is not 1."""
        return (self.brightness, self.contrast, self.saturation) != (1, 1, 1)

    def colors(self) -> tuple[np.ndarray, float]:
        """Return the change of colors as `y = M x + o` with x and y in [-1, 1]: M, float64 [3, 3], and o.

        With the gray `g` of a color, and mid-gray at 0::

            saturated  = g + saturation (x - g)
            contrasted = contrast * saturated
            y          = brightness * (contrasted + 1) - 1

        Contrast is the distance from mid-gray, not from a picture's mean (as in torchvision): the mean of a frame
        changes with what moves in it, and with it the brightness of a clip would flicker.
        """
        saturated = self.saturation * np.eye(3) + (1 - self.saturation) * np.array(_LUMA)
        return self.brightness * self.contrast * saturated, self.brightness - 1


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Input of the graph: one clip.

    Attributes:
        data: uint8 [T, H, W, 3] decoded frames; or, where DALI decodes, uint8 [bytes], a whole encoded file, or T such
            JPEG pictures of one size.
        frames: int32 [T], the frames to decode from the file.
        box: float32 [4], x0, y0, x1, y1 in pixels of the picture; it may reach beyond it, where the border is repeated.
        draw: Its augmentation.
        mask: int8 [T, size, size], see `dataloading.clips.masks`, or why it is not known; None where not asked for.
    """

    data: np.ndarray | tuple[np.ndarray, ...]
    frames: np.ndarray
    box: np.ndarray
    draw: Draw
    mask: np.ndarray | str | None = None


class ClipGraph:
    """A built DALI pipeline. Once a run has raised, the pipeline is dead and a new one has to be built."""

    def __init__(
        self,
        batch_size: int,
        image_size: int,
        device: torch.device,
        decode: bool,
        augment: bool,
        threads: int,
        pictures: int = 0,
    ):
        """`decode`: samples are encoded files. `augment`: samples' draws are applied, otherwise ignored.

        `pictures`: samples are so many JPEG pictures each. `device` is the CPU or a GPU with its index.
        """
        import torch

        self.decodes, self._augments, self._pictures = decode or pictures > 0, augment, pictures
        device_id = device.index if device.type == "cuda" else None
        self._pipeline = _define(batch_size, image_size, device_id, decode, augment, threads, pictures)
        self._pipeline.build()
        # On the training stream a copy would wait for all steps that are queued there.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Return float32 [B, T, 3, image_size, image_size] in [-1, 1], on the device, in memory of its own.

        Raises:
            RuntimeError: DALI could not decode one of the samples; it does not say which.
        """
        import torch

        inputs: dict[str, list[np.ndarray]] = {
            "roi_start": [np.float32([sample.box[1], sample.box[0]]) for sample in samples],
            "roi_end": [np.float32([sample.box[3], sample.box[2]]) for sample in samples],
        }
        if self._pictures:
            inputs |= {f"data{t}": [sample.data[t] for sample in samples] for t in range(self._pictures)}
        else:
            inputs["data"] = [sample.data for sample in samples]
        if self.decodes and not self._pictures:
            inputs["frames"] = [np.asarray(sample.frames, np.int32) for sample in samples]
        if self._augments:
            for name in ("brightness", "contrast", "saturation"):
                inputs[name] = [np.float32(getattr(sample.draw, name)) for sample in samples]
            for name in ("flip", "quality"):
                inputs[name] = [np.int32(getattr(sample.draw, name)) for sample in samples]
        (output,) = self._pipeline.run(**inputs)  # without a stream it returns once the output is complete
        if self._stream is None:
            # The dynamic executor gives each output a buffer of its own, which lives as long as the tensor.
            clips = torch.from_dlpack(output.as_tensor())
            self._change_colors(clips, samples)
            return clips
        with torch.cuda.stream(self._stream):
            # DALI would reuse it in the order of its own stream, without waiting for work queued on torch's.
            clips = torch.from_dlpack(output.as_tensor()).clone()
            self._change_colors(clips, samples)
        self._stream.synchronize()
        clips.record_stream(torch.cuda.default_stream(clips.device))  # the training stream uses it until it is freed
        return clips

    def _change_colors(self, clips: torch.Tensor, samples: Sequence[Sample]) -> None:
        """Change the colors of clips [B, T, 3, H, W] in place, but of those whose colors the graph changes.

        That is where a JPEG round trip follows. For the others the graph took 9 of 21 ms a clip on a CPU (6 frames of
        300 pixels), and this takes 2.5.
        """
        import torch

        if not self._augments:
            return
        drawn = [sample.draw.colors() for sample in samples]
        changes = np.stack([np.column_stack([matrix, [offset] * 3]) for matrix, offset in drawn])  # [B, 3, 4]
        changes = torch.from_numpy(np.float32(changes)).to(clips.device)  # one transfer for all clips
        # Not by a matrix product, whose factors a GPU may round to TF32.
        for clip, sample, change in zip(clips, samples, changes, strict=True):
            if sample.draw.quality < UNCOMPRESSED:
                continue
            matrix, offset = change[:, :3, None, None], change[:, 3:, None]
            for frames in [clip] if clip.is_cuda else clip:
                red, green, blue = frames.split(1, dim=-3)
                changed = torch.addcmul(offset, matrix[:, 0], red)
                changed.addcmul_(matrix[:, 1], green).addcmul_(matrix[:, 2], blue)
                torch.clamp(changed, -1, 1, out=frames)


def require_dali() -> None:
    """Raise InputError, which names the package to install, where DALI cannot be imported."""
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a shared library cannot be loaded
        raise InputError(
            f"NVIDIA DALI, which crops and augments clips, cannot be imported ({error}): "
            "install nvidia-dali-cuda130 as the README says."
        ) from error


def _define(
    batch_size: int, image_size: int, device_id: int | None, decode: bool, augment: bool, threads: int, pictures: int
):
    from nvidia.dali import fn, pipeline_def, types

    on_gpu = device_id is not None
    decoder = "mixed" if on_gpu else "cpu"

    # One batch in, one batch out: the loader's own thread runs ahead, and nothing is lost between epochs.
    @pipeline_def(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    def graph():
        if decode:
            encoded = fn.external_source(name="data", dtype=types.UINT8, ndim=1)
            frames = fn.external_source(name="frames", dtype=types.INT32, ndim=1)
            # pad_mode: the default turns a frame beyond the end into a black one.
            video = fn.decoders.video(encoded, device=decoder, frames=frames, pad_mode="none")
        elif pictures:
            encoded = [fn.external_source(name=f"data{t}", dtype=types.UINT8, ndim=1) for t in range(pictures)]
            video = fn.stack(*(fn.decoders.image(picture, device=decoder) for picture in encoded))
            video = fn.reshape(video, layout="FHWC")
        else:
            video = fn.external_source(name="data", dtype=types.UINT8, layout="FHWC")
            if on_gpu:
                video = video.gpu()
        start = fn.external_source(name="roi_start", dtype=types.FLOAT, ndim=1)
        end = fn.external_source(name="roi_end", dtype=types.FLOAT, ndim=1)
        # float: rounding to gray levels would add noise to differences of nearly equal frames.
        video = fn.resize(video, roi_start=start, roi_end=end, size=[image_size, image_size], dtype=types.FLOAT)

        def normalized(frames, mirror):
            how = {"mean": [MID_GRAY] * 3, "std": [MID_GRAY] * 3, "mirror": mirror}
            return fn.crop_mirror_normalize(frames, dtype=types.FLOAT, output_layout="FCHW", **how)

        if augment:
            factors = {
                name: fn.external_source(name=name, dtype=types.FLOAT, ndim=0)
                for name in ("brightness", "contrast", "saturation")
            }
            mirror = fn.external_source(name="flip", dtype=types.INT32, ndim=0)
            quality = fn.external_source(name="quality", dtype=types.INT32, ndim=0)
            # What `enable_conditionals` makes of an if statement; it would write the converted source into a file,
            # which a process that is killed leaves in the temporary directory.
            compress = quality < UNCOMPRESSED
            video, kept = fn._conditional.split(video, predicate=compress)
            mirror, mirror_kept = fn._conditional.split(mirror, predicate=compress)
            quality, brightness, contrast, saturation = (
                fn._conditional.split(values, predicate=compress)[0] for values in (quality, *factors.values())
            )
            video = fn.saturation(video, saturation=saturation, dtype=types.FLOAT)
            # `color_twist`, one operator for both, takes 0.5 as mid-gray of floats, whatever their range.
            around = {"contrast": contrast, "contrast_center": MID_GRAY}
            video = fn.brightness_contrast(video, brightness=brightness, dtype=types.UINT8, **around)
            video = normalized(fn.jpeg_compression_distortion(video, quality=quality), mirror)
            return fn._conditional.merge(video, normalized(kept, mirror_kept), predicate=compress)
        return normalized(video, 0)

    return graph()
