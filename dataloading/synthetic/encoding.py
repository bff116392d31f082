"""H.264 files whose every frame is coded by itself, and which exist whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

from dataloading.io import replacing

# All frames are intra frames and no state of the rate control passes from one to the next: keyint=1 rules out
# prediction, mbtree=0 and rc-lookahead=0 rule out looking ahead, and qcomp=1 makes the quantizer of crf independent of
# how complex the frames before were. What a frame decodes to then depends on that frame alone. One thread, so that the
# files are reproducible.
X264_PARAMETERS = "keyint=1:scenecut=0:bframes=0:mbtree=0:rc-lookahead=0:qcomp=1:threads=1:lookahead-threads=1"


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int, crf: int = 23) -> None:
    """Write frames (uint8 `[H, W, 3]` RGB or `[H, W]` gray, even sides) as intra-only H.264, yuv420p, in an MP4 file.

    The file is there whole or not at all.
    """
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = None
        for image in frames:
            if stream is None:
                stream = container.add_stream(
                    "libx264", rate=fps, options={"crf": str(crf), "preset": "fast", "x264-params": X264_PARAMETERS}
                )
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.thread_count = 1
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.ndim == 3 else "gray")
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError("a video needs at least one frame")
        container.mux(stream.encode(None))
