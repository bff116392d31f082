"""`istvt explain`: heatmaps in time and space of one video."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape

from dataloading.errors import InputError, as_input_error
from istvt.cli.console import counted, print_lines, printable, progress_bar, starting
from istvt.cli.options import (
    add_boxes,
    add_checkpoint,
    add_device,
    add_face_detection,
    add_precision,
    check_architecture,
    check_checkpoint,
    check_device_name,
    detect_option,
)
from istvt.config import DetectorConfig, ExplanationSettings

if TYPE_CHECKING:  # it imports PyTorch
    from istvt.explain_video.people import PersonExplanation


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    parser.add_argument("video", type=Path, help="the video to explain")
    add_checkpoint(parser)
    parser.add_argument(
        "--out", "--output", type=Path, default=Path("explanation"), help="directory of everything that is written"
    )
    parser.add_class_arguments(ExplanationSettings, skip={"boxes", "detector", "detect", "precision"})
    add_boxes(parser)
    add_face_detection(parser)
    add_device(parser)
    add_precision(parser)


def run(options: Namespace, console: Console) -> int:
    """Show where and when the evidence of a video is: relevance in time and in space, over the face and in the frame.

      istvt explain suspicious.mp4 --checkpoint runs/ffpp --out why

    Writes for each person two videos and a strip of pictures a clip, and for all of them explanation.json and
    explanation.html, which shows all of it and opens from disk."""
    from istvt.inference.crop import check_people

    chosen = {field.name: options[field.name] for field in fields(ExplanationSettings) if field.name != "detect"}
    with as_input_error():
        settings = ExplanationSettings(**chosen, detect=detect_option(options))
    check_people(person=settings.person, boxes=settings.boxes, detect=settings.detect)
    check_device_name(options.device)
    check_checkpoint(options)
    if not options.video.exists():
        raise InputError(f"{options.video} does not exist; expected a video file")
    with starting(console):
        from istvt.device import pick_device
        from istvt.explain_video.video import explain_video
    check_architecture(options)
    with progress_bar(console, "explaining") as update:
        explanation = explain_video(
            options.video,
            options.checkpoint,
            options.out,
            settings,
            device=str(pick_device(options.device)),
            advance=lambda what, done, total: update(done, total, what),
        )
    score, people = explanation.score, explanation.people
    whose = f" ({score.name} of {len(people)})" if len(people) > 1 else ""
    print_lines(console, f"{score.verdict}, probability of fake {score.probability:.1%}{whose}: {options.video}")
    print_lines(console, *explanation.notes, style="yellow")
    for person in people:
        if len(people) > 1:
            seen = f"seen {person.score.seconds:.1f} s, {counted(len(person.score.clip_probabilities), 'clip')}"
            verdict = f"{person.score.verdict} {person.score.probability:.1%}"
            print_lines(console, f"{person.score.name}: {verdict}, {seen}")
        _print_clips(console, person, settings.clips)
    print_lines(console, *explanation.not_scored, style="yellow")
    console.print(f"open [bold]{escape(printable(str(options.out / 'explanation.html')))}[/]", soft_wrap=True)
    return 0


def _print_clips(console: Console, person: PersonExplanation, asked_for: int) -> None:
    """Print the doubts about a score, and which clips are not explained."""
    if person.score.remark:
        print_lines(console, person.score.remark, style="yellow")
    explained, scored = len(person.clips), len(person.score.clip_probabilities)
    if explained < asked_for:
        fewer = f"no more of the {scored} scored clips are without a common frame"
        print_lines(console, f"clips explained: {explained} of {asked_for} asked for; {fewer}")
    if person.skipped:
        print_lines(console, f"clips that could not be decoded: {len(person.skipped)}")
        print_lines(console, *(f"  from frame {first}: {reason}" for first, reason in person.skipped))
