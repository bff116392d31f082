"""`istvt predict`: scores and verdicts of video files."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape

from dataloading.errors import InputError
from istvt.cli import PROBLEM_FOUND
from istvt.cli.console import counted, print_lines, progress_bar, starting
from istvt.cli.options import add_checkpoint, add_device, add_face_detection, check_device_name, detect_option
from istvt.config import ISTVTConfig


def add(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """Add the options."""
    add_checkpoint(parser)
    parser.add_argument("videos", type=Path, nargs="+", help="video files, or directories of them")
    add_face_detection(parser)
    parser.add_argument("--person", type=int, default=1, help="of several people: 1 is the main one, 2 the next")
    parser.add_argument("--clips", type=int, default=8, help="clips scored a video")
    parser.add_argument("--json", type=Path | None, default=None, help="also write the scores to this file")
    add_device(parser)


def run(options: Namespace, console: Console) -> int:
    """Score any video: real or fake, and how probably fake.

    A file that cannot be scored is named with the reason; the others are scored all the same, and the exit status is 1.
    """
    from dataloading.layouts.files import video_files
    from istvt.run_dir import model_file

    if options.clips < 1:
        raise InputError(f"--clips is {options.clips}; expected at least 1")
    if options.person < 1:
        raise InputError(f"--person is {options.person}; expected at least 1")
    if options.json and options.json.is_dir():
        raise InputError(f"--json {options.json}: is a directory; expected a file to write")
    if options.json and not options.json.parent.is_dir():
        raise InputError(f"--json {options.json}: there is no directory {options.json.parent}; expected a file in one")
    detect = detect_option(options)
    check_device_name(options.device)
    model_file(options.checkpoint)
    files, left_out = video_files(options.videos)
    with starting(console):
        from dataloading.io import write_json
        from istvt.device import pick_device
        from istvt.inference.predict import predict
        from istvt.model.checkpoint import load_model
        from istvt.run_dir import output_directory
    if options.json:
        output_directory(options.json.parent)  # fails here if it is not writable
    model, info = load_model(options.checkpoint, pick_device(options.device))
    for reason, count in Counter(item.reason for item in left_out).items():
        print_lines(console, f"{counted(count, 'video')} left out: {reason}", style="dim")
    done = itertools.count()
    with progress_bar(console, "scoring videos") as update:

        def advance(prediction: Any) -> None:
            if not (before := next(done)):  # caveats of all verdicts are printed before the first one, not after hours
                print_lines(console, *prediction.notes, style="yellow")
            update(before + 1, len(files))

        predictions = predict(
            model,
            files,
            info=info,
            detector=options.detector,
            detect=detect,
            person=options.person,
            clips_per_video=options.clips,
            advance=advance,
        )
    if options.json:
        rows = [
            {"path": str(p.path), "error": p.error}
            if p.score is None
            else {
                "path": str(p.path),
                "verdict": p.score.verdict,
                "probability_fake": p.score.probability,
                "clip_probabilities": p.score.clip_probabilities,
                "clip_frames": p.score.clip_frames,
                "remark": p.remark,
                "notes": p.notes,
            }
            for p in predictions
        ]
        write_json(options.json, rows)
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in predictions:
        if prediction.score:
            score = prediction.score
            style = "red" if score.verdict == "fake" else "green"
            console.print(
                f"[{style}]{score.verdict:<4}[/]  probability of fake {score.probability:6.1%}  "
                f"({counted(len(score.clip_probabilities), 'clip')})  {escape(str(prediction.path))}",
                soft_wrap=True,
                highlight=False,
            )
            if prediction.remark:
                print_lines(console, f"      {prediction.remark}", style="yellow")
    print_lines(console, *(f"not scored  {prediction.error}" for prediction in failed))
    if len(predictions) > 1:
        print_lines(console, f"{len(predictions) - len(failed)} of {len(predictions)} videos scored")
    return PROBLEM_FOUND if failed else 0
