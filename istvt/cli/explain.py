"""`istvt explain`: heatmaps in time and space of one video."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape

from dataloading.errors import InputError, as_input_error
from istvt.cli.console import print_lines, progress_bar, starting
from istvt.cli.options import add_checkpoint, add_device, add_face_detection, check_device_name, detect_option
from istvt.config import ExplanationSettings, ISTVTConfig


def add(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """Add the options."""
    parser.add_argument("video", type=Path, help="the video to explain")
    add_checkpoint(parser)
    parser.add_argument(
        "--out", "--output", type=Path, default=Path("explanation"), help="directory of everything that is written"
    )
    parser.add_class_arguments(ExplanationSettings)
    parser.add_argument("--clips", type=int, default=3, help="clips to explain, those that support the verdict most")
    add_face_detection(parser)
    add_device(parser)


def run(options: Namespace, console: Console) -> int:
    """Show where and when the evidence of a video is: relevance in time and in space, over the face and in the frame.

    Writes two videos, a strip of pictures a clip, explanation.json, and explanation.html, which shows all of it and
    opens from disk."""
    from istvt.run_dir import model_file

    if options.clips < 1:
        raise InputError(f"--clips is {options.clips}; expected at least 1")
    detect = detect_option(options)
    with as_input_error():
        settings = ExplanationSettings(**{field.name: options[field.name] for field in fields(ExplanationSettings)})
    check_device_name(options.device)
    model_file(options.checkpoint)
    if not options.video.exists():
        raise InputError(f"{options.video} does not exist; expected a video file")
    with starting(console):
        from istvt.device import pick_device
        from istvt.explain_video.video import explain_video
    with progress_bar(console, "explaining") as update:
        explanation = explain_video(
            options.video,
            options.checkpoint,
            options.out,
            settings,
            detector=options.detector,
            detect=detect,
            clips_explained=options.clips,
            device=str(pick_device(options.device)),
            advance=lambda what, done, total: update(done, total, what),
        )
    score = explanation.score
    print_lines(console, f"{score.verdict}, probability of fake {score.probability:.1%}: {options.video}")
    print_lines(console, *explanation.notes, style="yellow")
    explained, scored = len(explanation.clips), len(score.clip_probabilities)
    if explained < options.clips:
        fewer = f"no more of the {scored} scored clips are without a common frame"
        print_lines(console, f"clips explained: {explained} of {options.clips} asked for; {fewer}")
    if explanation.skipped:
        print_lines(console, f"clips that could not be decoded: {len(explanation.skipped)}")
        print_lines(console, *(f"  from frame {first}: {reason}" for first, reason in explanation.skipped))
    console.print(f"open [bold]{escape(str(options.out / 'explanation.html'))}[/]", soft_wrap=True)
    return 0
