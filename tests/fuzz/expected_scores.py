"""Check of scores: each clip of a scored video has the probability of the pictures that a plain decoder gives.

The reference decodes the file from its beginning, every packet, with a decoder that stops at an error, and knows no
seeking, skipping or caching. Run as a function of the fork server with the video, the file of scores, the checkpoint
and `--detect` or `--no-detect`; it exits with 1 and a sentence where a score is another one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import av
import numpy as np

TOLERANCE = 1e-4
TOLERANCE_OF_LARGE = 1e-2  # of pictures that are averaged before they are kept


def main(arguments: list[str]) -> int:
    """Compare, and print the first difference."""
    import torch

    from dataloading.clips.cpu_pipeline import CpuPipeline
    from dataloading.clips.pipeline import Draw, Sample
    from dataloading.clips.reader import LARGEST_AREA
    from dataloading.faces import make_detector
    from dataloading.video.probe import probe
    from istvt.inference.predict import face_entry
    from istvt.model.checkpoint import load_model

    video, scores, checkpoint, how = arguments
    people = [person for row in json.loads(Path(scores).read_text()) for person in row.get("people", [])]
    if not people:
        return 0
    model, _ = load_model(checkpoint)
    info = probe(video)
    # As the command looks for it: pictures are checked here, and not where a face is.
    detector = make_detector().name if how == "--detect" else None
    entry = face_entry(Path(video), detector, model.config.frames, workers=2)
    pictures, damaged = plain_pictures(video, info)
    pipeline = CpuPipeline(model.config.image_size, augment=False)
    for person in people:
        face = entry.of_person(person["person"] or 1)
        for frames, probability in zip(person["clip_frames"], person["clip_probabilities"], strict=True):
            if missing := [frame for frame in frames if frame not in pictures]:
                print(f"frames {frames} are scored, and a plain decoder does not give {missing}")
                return 1
            if used := sorted(set(frames) & damaged):
                print(f"frames {frames} are scored, and the decoder reports damage in {used}")
                return 1
            data = np.stack([pictures[frame] for frame in frames])
            sample = Sample(data, np.array(frames), np.float32(face.box(frames)), Draw())
            with torch.inference_mode():
                expected = float(torch.sigmoid(model(pipeline.run([sample])).double()))
            large = data[0, ..., 0].size > LARGEST_AREA
            if abs(expected - probability) > (TOLERANCE_OF_LARGE if large else TOLERANCE):
                print(f"frames {frames} are scored {probability:.6f}; their pictures have {expected:.6f}")
                return 1
    return 0


def plain_pictures(video: str, info) -> tuple[dict[int, np.ndarray], set[int]]:
    """Return the pictures of a video by frame, and the frames that depend on a packet which cannot be decoded."""
    pictures, damaged, broken, counted = {}, set(), False, 0
    with av.open(video, metadata_errors="replace") as container:
        stream = next(s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
        stream.codec_context.options = {"err_detect": "explode"}
        stream.codec_context.thread_count = 1
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):
                break
            try:
                decoded = stream.decode(packet)
            except av.FFmpegError:
                broken = True
                continue
            for picture in decoded:
                frame = counted if not info.timed else int(np.searchsorted(info.timestamps, picture.pts or 0))
                counted += 1
                broken = broken and not picture.key_frame
                rgb = picture.to_ndarray(format="rgb24")
                pictures[frame] = np.ascontiguousarray(np.rot90(rgb, info.rotation // 90)) if info.rotation else rgb
                if broken:
                    damaged.add(frame)
    return pictures, damaged


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
