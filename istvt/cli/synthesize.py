"""`istvt synthesize`: the synthetic demonstration set."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from istvt.cli.console import print_lines, starting
from istvt.config import DetectorConfig


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    parser.add_argument("directory", type=Path, help="root of the set; videos that are there already are kept")
    parser.add_argument("--identities", type=int, default=48, help="people, an even number of at least 6")
    parser.add_argument("--videos-per-identity", type=int, default=1, help="real videos of each person")
    parser.add_argument("--frames", type=int, default=24, help="frames a video, 8 or more; 25 are a second")
    parser.add_argument("--size", type=int, default=128, help="side of the square picture in pixels, even")
    parser.add_argument("--seed", type=int, default=0, help="of the faces, their movements and the forgeries")
    parser.add_argument("--varied", action="store_true", help="let fakes differ in where and when they are forged")
    parser.add_argument(
        "--manipulations",
        type=list[str],
        default=["blend", "flicker", "both"],
        help="kinds of fakes, such as blend,mouth; mouth and eyes forge a part of the face",
    )
    parser.add_argument(
        "--edited", action="store_true", help="also draw an edited video of two people, one of them forged in one shot"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")


def run(options: Namespace, console: Console) -> int:
    """Write a synthetic set in the shape of FaceForensics++: H.264 videos of drawn, moving faces, and their forgeries.

      istvt synthesize data/drawn --identities 40 --manipulations blend,flicker

    blend: another face blended in (a spatial trace). flicker: each frame is as plausible as a real one but does not
    agree with its neighbors (a purely temporal trace). both: both. With --manipulations also forgeries of a part of the
    face: mouth, whose states come in another order, and eyes, which never blink where real people do. It is for
    demonstration and tests: it says nothing about accuracy on real forgeries."""
    with starting(console):
        from dataloading.synthetic import synthesize

    values = options.as_dict()
    directory = values.pop("directory")
    values.pop("config", None)
    done = synthesize(directory, **values)
    print_lines(console, f"{directory}: {done.written} videos drawn, {done.already_there} were there already")
    return 0
