"""`istvt demo`: synthetic videos, training, evaluation, prediction and explanation in minutes on two cores."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from istvt.config import DataSettings, DetectorConfig, ExplanationSettings, TrainingSettings, preset

if TYPE_CHECKING:  # benchmarks import the constants below on machines without these packages
    from jsonargparse import ArgumentParser, Namespace
    from rich.console import Console

# The synthetic set and the training of the small model on it, alike in the demo and in the synthetic experiment.
SPLITS = (0.6, 0.15, 0.25)
VIDEO_SIZE = 96
VIDEO_FRAMES = 16
# eager: compiling takes longer than training a model as small as this.
TRAINING = TrainingSettings(batch_size=8, learning_rate=7e-4, execution="eager")

IDENTITIES = 160
EPOCHS = 22
FRESH_SEED = 2026
EDITED_NOTE = (
    "The people's places and the cuts are known from drawing; in other videos a face detector and the shot finder look "
    "for them."
)


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    parser.add_argument(
        "--output", "--out", type=Path, default=Path("runs/demo"), help="directory of everything written"
    )


def run(options: Namespace, console: Console) -> int:
    """Run every step in minutes: draw videos, prepare, train, evaluate on unseen people, score fresh videos.

    Run again, it uses what is already there."""
    return demo(options.output, console)


def demo(output: Path, console: Console) -> int:
    """Run the demo in `output`, reusing results of an earlier run; return the exit status."""
    from istvt.cli.console import print_lines, progress_bar, starting
    from istvt.run_dir import output_directory

    output_directory(output)
    with starting(console):
        from dataloading import read_dataset
        from dataloading.faces.prepare import prepare
        from dataloading.synthetic import draw_edited_video, read_edited_video, synthesize
        from istvt.device import pick_device
        from istvt.explain_video.video import explain_video
        from istvt.inference.predict import predict
        from istvt.model.checkpoint import load_model
        from istvt.report.evaluate_checkpoint import evaluate_checkpoint
        from istvt.report.summary import verdict_sentence
        from istvt.training.trainer import train

    started = time.perf_counter()
    data, fresh, run = output / "videos", output / "fresh", output / "training"

    console.rule("[bold]1  Drawing H.264 videos of faces, and forging them three ways")
    summary = synthesize(data, identities=IDENTITIES, frames=VIDEO_FRAMES, size=VIDEO_SIZE, splits=SPLITS)
    print_lines(console, f"{summary.written} videos drawn, {summary.already_there} were there already: {data}")
    # Drawn from another seed: identities and forgeries outside the training set.
    drawing = {"frames": VIDEO_FRAMES, "size": VIDEO_SIZE, "seed": FRESH_SEED}
    synthesize(fresh, identities=6, **drawing, progress=False)

    console.rule("[bold]2  Face index: the videos are face crops, so whole pictures are used")
    prepare(read_dataset(data), detect=False)

    console.rule("[bold]3  Training the full model")
    settings = DataSettings(root=data, evaluation_clips=2)
    trained = train(settings, preset("small"), replace(TRAINING, epochs=EPOCHS), run, console=console)

    console.rule("[bold]4  Evaluation on people the model has never seen")
    with progress_bar(console, "scoring clips") as update:
        result = evaluate_checkpoint(trained.checkpoint, settings, output, advance=update)

    console.rule("[bold]5  A verdict on fresh videos")
    model, info = load_model(trained.checkpoint, pick_device())
    videos = sorted(read_dataset(fresh).videos, key=lambda video: (video.label, video.manipulation, video.name))
    shown = list({video.manipulation: video for video in reversed(videos)}.values())[::-1]
    for video, prediction in zip(shown, predict(model, [v.path for v in shown], detect=False), strict=True):
        score = prediction.score
        truth = "real" if video.label == 0 else f"fake ({video.manipulation})"
        verdict = f"{score.verdict:<4}  probability of fake {score.probability:6.1%}" if score else prediction.error
        print_lines(console, f"  {verdict}; in truth {truth:<15} {video.path}")

    console.rule("[bold]6  Explanation: relevance in time and in space")
    suspect = next(video for video in shown if video.manipulation == "flicker")
    with progress_bar(console, "explaining") as update:
        explain_video(
            suspect.path,
            model,
            output / "explanation",
            ExplanationSettings(detect=False),
            notes=info.caveats,
            advance=lambda what, done, total: update(done, total, what),
        )
    print_lines(console, f"{suspect.path} is explained in {output / 'explanation' / 'explanation.html'}")

    console.rule("[bold]7  An edited video of two people: who is forged, where and when")
    edited, place = output / "edited" / "two_people.mp4", output / "explanation_of_people"
    edited.parent.mkdir(exist_ok=True)
    content = read_edited_video(edited) if edited.exists() else draw_edited_video(edited, **drawing)
    with progress_bar(console, "explaining") as update:
        people = explain_video(
            edited,
            model,
            place,
            face=content.face_entry(edited),
            notes=[*info.caveats, EDITED_NOTE],
            advance=lambda what, done, total: update(done, total, what),
        )
    for person in people.people:
        score, shot = person.score, person.score.most_suspicious_shot
        print_lines(
            console,
            f"  {score.name}: {score.verdict}, probability of fake {score.probability:6.1%}, the highest in "
            f"{shot.place(content.fps)}: {shot.probability:.1%}",
        )
    first, last = (frame / content.fps for frame in content.shots[content.forged_shot - 1])
    print_lines(
        console,
        f"in truth person {content.forged_person} is fake ({content.manipulation}) in shot {content.forged_shot}, from "
        f"{first:.1f} to {last + 1 / content.fps:.1f} s, and nothing else is",
        f"{edited} is explained in {place / 'explanation.html'}",
    )

    console.rule("[bold]Done")
    evaluation, videos = result.evaluation, result.evaluation.videos
    skipped = f"{len(evaluation.skipped)} videos or clips were skipped; the report lists them"
    print_lines(
        console,
        f"held-out people: {verdict_sentence(videos)}",
        f"accuracy {videos.accuracy}, AUC {videos.auc}",
        *(f"  {name:<8} AUC {metrics.auc}" for name, metrics in evaluation.manipulations.items()),
        *([skipped] if evaluation.skipped else []),
        f"{time.perf_counter() - started:.0f} s in all; open {result.report}",
        f"judge all fresh drawn videos: .venv/bin/istvt predict {fresh} --checkpoint {run}",
        "This model has only ever seen drawn faces: on a real video its verdict would mean nothing. For real ones: "
        ".venv/bin/istvt prepare DATA, then train --data.root DATA, with FaceForensics++ or another set of the README.",
    )
    return 0
