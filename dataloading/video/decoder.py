"""Choice of the decoder for a set of videos: PyAV reads all of them on the CPU, DALI is faster and reads some."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dataloading.errors import InputError
from dataloading.video.probe import VideoInfo, probe_once
from dataloading.video.processes import Workers

if TYPE_CHECKING:
    import torch

DECODERS = ("auto", "pyav", "dali")
_EIGHT_BIT = ("yuv420p", "yuvj420p")
# Smallest width and height that DALI's decoder takes, by codec. On a GPU these are NVDEC's.
_DALI_ON_CPU = {"vp8": (1, 1), "vp9": (1, 1), "mjpeg": (1, 1)}
_DALI_ON_GPU = {
    "h264": (48, 16),
    "hevc": (144, 144),
    "vp8": (48, 16),
    "vp9": (128, 128),
    "av1": (128, 128),
    "mpeg4": (48, 16),
    "mjpeg": (64, 64),
}


def choose_decoder(decoder: str, paths: Iterable[Path], device: torch.device) -> str:
    """Return `"pyav"` or `"dali"`: what decodes these videos where `decoder` is asked for.

    Raises:
        InputError: There is no such decoder, or it is `"dali"` and that cannot decode all of the readable videos.
    """
    if decoder not in DECODERS:
        raise InputError(f"decoder is {decoder!r}; expected one of {', '.join(DECODERS)}.")
    if decoder == "pyav" or (decoder == "auto" and not (device.type == "cuda" and has_nvdec())):
        return "pyav"
    if device.type == "cuda" and not has_nvdec():
        raise InputError("decoder is 'dali', but NVIDIA's video decoder (libnvcuvid.so.1) is not installed here.")
    processes = Workers()
    for path in dict.fromkeys(paths):
        try:
            reason = processes.call(probe_for_dali, path, device.type, file=path)
        except InputError:
            continue  # unreadable by either: it will be skipped and listed
        if reason is not None and decoder == "auto":
            return "pyav"
        if reason is not None:
            raise InputError(f"decoder is 'dali', but {path} {reason}; decoder='pyav' reads it.")
    return "dali"


def probe_for_dali(path: Path, device_type: str) -> str | None:
    """Return `why_not_dali` of a file; called in a worker process."""
    return why_not_dali(probe_once(path), device_type)


def why_not_dali(info: VideoInfo, device_type: str) -> str | None:
    """Return why DALI cannot decode a video on `"cpu"` or `"cuda"`, to follow its name; None if it can."""
    smallest = (_DALI_ON_GPU if device_type == "cuda" else _DALI_ON_CPU).get(info.codec)
    if smallest is None:
        return f"is {info.codec}, which DALI cannot decode on {device_type}"
    if info.pixel_format not in _EIGHT_BIT:
        return f"has pixel format {info.pixel_format}, and DALI decodes 8-bit 4:2:0 only"
    if info.rotation:
        return f"is to be rotated by {info.rotation} degrees, which DALI does not do"
    if not info.timed or info.hidden:
        return "has hidden frames or frames without times, which DALI counts differently"
    if info.width < smallest[0] or info.height < smallest[1]:
        return f"is {info.width}x{info.height}, below the {smallest[0]}x{smallest[1]} that DALI decodes"
    return None


def has_nvdec() -> bool:
    """Whether NVIDIA's video decoder is installed here."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return False
    return True
