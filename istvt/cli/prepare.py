"""`istvt prepare`: the face index of a data set, and its crop store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from dataloading.dataset import FIRST_FRAMES
from dataloading.errors import InputError, as_input_error
from istvt.cli import PROBLEM_FOUND
from istvt.cli.console import print_lines, starting
from istvt.cli.options import add_dataset, add_engine, engine_of, shard_of
from istvt.config import DetectorConfig

if TYPE_CHECKING:
    from dataloading.clips.store import CropOptions


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    add_dataset(parser)
    parser.add_argument(
        "--detector", type=str, default="auto", help="yuface, dlib, opencv; auto takes the best installed"
    )
    parser.add_argument("--no-detect", dest="no_detect", action="store_true", help="videos are face crops already")
    parser.add_argument("--boxes", type=Path | None, default=None, help="JSON file of face boxes made elsewhere")
    parser.add_argument("--every", type=int, default=5, help="look for the face in every N-th frame")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="prepare videos again whose boxes or crops were made in another way than these options ask for",
    )
    parser.add_argument(
        "--crops",
        type=Path | None,
        default=None,
        help="also write a crop store to this directory: the region around each face, lossless, from which training "
        "and evaluation read faster; give it as data set to the other commands",
    )
    parser.add_argument(
        "--crops-format",
        dest="crops_format",
        choices=["ffv1", "magicyuv", "jpeg"],
        default="ffv1",
        help="ffv1 and magicyuv are lossless: clips are bit for bit those of the originals; magicyuv is decoded four "
        "times as fast and takes a third more of the disk; jpeg is lossy",
    )
    parser.add_argument("--quality", type=int | None, default=None, help="of --crops-format jpeg, 1 to 100; default 95")
    parser.add_argument(
        "--crops-frames",
        dest="crops_frames",
        type=int,
        default=FIRST_FRAMES,
        help="how many frames of each video are kept, from its first one on; 0 keeps all",
    )
    add_engine(parser)


def run(options: Namespace, console: Console) -> int:
    """Find the main face of every video of a data set and write its boxes to face_index.jsonl in the set's root.

      istvt prepare data/FaceForensics++ --crops /fast/crops

    Goes on where an earlier run stopped. A video without a face, too short for a clip or damaged is listed at the end
    with the reason, and never stops the run (the exit status is 1 then).

    With --crops DIR the region around each face is then written to DIR, once, in the video's own pixel format, and DIR
    can be given to the other commands in place of the data set, which may be on a read-only disk.

    On many machines (--engine ray, or --shard and `istvt merge`) index and store are the same as from one. Shards of a
    store are cut when the face index is whole: first all shards without --crops and their merge, then with --crops."""
    with starting(console):
        from dataloading import format_summary, read_dataset
        from dataloading.face_index import FaceIndex
        from dataloading.faces.prepare import prepare, unusable

    crops, shard = _crop_options(options), shard_of(options)
    dataset = read_dataset(options.dataset, options.layout, options.compression, options.originals)
    place, again = None, []
    if crops:
        from dataloading.clips.cutting import changed_originals, index_place, write_crops

        place, again = index_place(dataset, options.crops), changed_originals(dataset, options.crops)
    with engine_of(options, console) as engine:
        many = {"workers": options.workers, "engine": engine, "shard": shard}
        if crops and shard:
            index = FaceIndex.read(place)
        else:
            index = prepare(
                dataset,
                detector=options.detector,
                detect=not options.no_detect,
                boxes=options.boxes,
                every=options.every,
                replace=options.replace,
                before=lambda: print_lines(console, format_summary(dataset.summary())),
                index_file=place,
                again=again,
                **many,
            )
        failed = bool(unusable(index, [video for video in dataset.videos if not shard or video.name in index]))
        if crops:
            source = {"layout": options.layout, "compression": options.compression}
            source |= {"root": str(options.dataset), "originals": options.originals and str(options.originals)}
            report = write_crops(
                dataset, index, options.crops, crops, replace_other=options.replace, source=source, **many
            )
            failed = failed or bool(report.failed)
    return PROBLEM_FOUND if failed else 0


def _crop_options(options: Namespace) -> CropOptions | None:
    """Return what is kept in the crop store; None without one."""
    from dataloading.clips.store import CropOptions

    given = {"--crops-format": options.crops_format != "ffv1", "--crops-frames": options.crops_frames != FIRST_FRAMES}
    given["--quality"] = options.quality is not None
    if options.crops is None:
        for option in (name for name, is_given in given.items() if is_given):
            raise InputError(f"{option} is given without --crops, which it is of")
        return None
    if options.quality is not None and options.crops_format != "jpeg":
        raise InputError("--quality is given with lossless crops; expected --crops-format jpeg with it")
    if options.crops_frames < 0:
        raise InputError(f"--crops-frames is {options.crops_frames}; expected 0 or more")
    quality = (options.quality if options.quality is not None else 95) if options.crops_format == "jpeg" else None
    with as_input_error():
        return CropOptions(options.crops_format, quality, options.crops_frames or None)
