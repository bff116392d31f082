"""`istvt predict`: scores and verdicts of video files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape

from dataloading.errors import InputError
from istvt.cli import PROBLEM_FOUND
from istvt.cli.console import counted, print_lines, progress_bar, starting
from istvt.cli.options import (
    add_boxes,
    add_checkpoint,
    add_device,
    add_engine,
    add_face_detection,
    add_precision,
    check_architecture,
    check_checkpoint,
    check_counts,
    check_device_name,
    detect_option,
    engine_of,
    shard_of,
)
from istvt.config import DetectorConfig

if TYPE_CHECKING:  # they import PyTorch
    from istvt.inference.calibration import Band
    from istvt.inference.people import PersonScore
    from istvt.inference.predict import Prediction


FACES = ("all", "main")


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    add_checkpoint(parser)
    parser.add_argument(
        "videos", type=str, nargs="+", help="video files, or directories of them; also URLs (s3://, gs://, https://)"
    )
    add_face_detection(parser)
    parser.add_argument(
        "--faces",
        choices=FACES,
        default="all",
        help="all: every person found has a verdict; main: only the largest and longest seen, one line a video",
    )
    parser.add_argument(
        "--person", type=int | None, default=None, help="score one person alone: 1 is the main one, 2 the next"
    )
    add_boxes(parser)
    parser.add_argument(
        "--clips", type=int | None, default=None, help="clips scored a person; 8, and more for many or long shots"
    )
    parser.add_argument(
        "--isolate",
        action="store_true",
        help="read each video in processes with limits on memory, time, files and network, and slower: for videos of "
        "unknown origin",
    )
    parser.add_argument(
        "--max-error",
        type=float | None,
        default=None,
        help="say 'not sure' where this share of wrong verdicts could be exceeded, such as 0.05, by the model's "
        "validation videos; refused where these are too few for it",
    )
    parser.add_argument("--json", type=Path | None, default=None, help="also write the scores to this file")
    add_device(parser)
    add_precision(parser)
    add_engine(parser)


def run(options: Namespace, console: Console) -> int:
    """Score any video: real or fake, and how probably fake, for every person in it.

      istvt predict suspicious.mp4 folder/of/videos --checkpoint runs/ffpp --json scores.json

    The verdict of a video is that of its most suspicious person. A person has the mean of its clips, or the probability
    of its most suspicious shot, with the odds divided by the number of shots, where that is higher.

    With --max-error there is no verdict ("not sure") in a band of scores around one half, which is as wide as the
    validation videos of the model ask for. It is for single people and videos like those, scored as evaluate does.

    A file that cannot be scored is named with the reason; the others are scored all the same, and the exit status is 1.

    On many machines (--engine ray, or --shard and `istvt merge`) the --json file is the same as from one. What is done
    is kept in FILE.unfinished until FILE is written, and the same command goes on from it."""
    from dataloading.layouts.files import video_files
    from istvt.inference.crop import check_people

    check_counts(options, "clips")
    shard = shard_of(options)
    if shard and options.json is None:
        raise InputError("--shard is given without --json FILE, beside which the shard is written")
    if shard and options.max_error is not None:
        raise InputError(
            "--max-error is given with --shard, which writes scores without verdicts; expected it with istvt merge"
        )
    if options.json and options.json.is_dir():
        raise InputError(f"--json {options.json}: is a directory; expected a file to write")
    if options.json and not options.json.parent.is_dir():
        raise InputError(f"--json {options.json}: there is no directory {options.json.parent}; expected a file in one")
    detect = detect_option(options)
    check_people(options.faces, options.person, options.boxes, detect)
    check_device_name(options.device)
    check_checkpoint(options)
    files, left_out = video_files(options.videos)
    with starting(console):
        from dataloading.engines.journal import unfinished
        from dataloading.video.sandbox import missing
        from istvt.device import pick_device
        from istvt.inference.calibration import band_of_checkpoint
        from istvt.inference.predict import predict
        from istvt.model.checkpoint import load_model, read_info
        from istvt.run_dir import output_directory
    if options.json:
        output_directory(options.json.parent)  # fails here if it is not writable
    check_architecture(options)
    band = None
    if options.max_error is not None:
        band = band_of_checkpoint(read_info(options.checkpoint), options.max_error, options.checkpoint)
        print_lines(console, str(band), style="dim")
    model, info = options.checkpoint, None
    if options.engine == "local":
        model, info = load_model(options.checkpoint, pick_device(options.device))
    keep = None
    if options.json and (shard or options.engine != "local"):
        keep = shard.file(options.json) if shard else unfinished(options.json)
    whole = len(files)
    if shard:
        whole = len(shard.positions(list(map(str, files))))
    for reason, count in Counter(item.reason for item in left_out).items():
        print_lines(console, f"{counted(count, 'video')} left out: {reason}", style="dim")
    if options.isolate and (unenforced := missing()):
        print_lines(console, f"isolated, but not limited here: {' and '.join(unenforced)}", style="yellow")
    done = 0
    with engine_of(options, console) as engine, progress_bar(console, "scoring videos") as update:

        def advance(prediction: Any) -> None:
            nonlocal done
            done += 1
            if done == 1:  # caveats of all verdicts are printed before the first one, not after hours
                print_lines(console, *prediction.notes, style="yellow")
            update(done, whole)

        def progress(path: Path | str, what: str, part: int, in_all: int) -> None:
            name = escape(Path(path).name)
            if what == "scoring":
                update(done + part / in_all, whole, f"scoring {name}")
            else:
                update(part, in_all, f"{what} in {name}")

        predictions = predict(
            model,
            files,
            info=info,
            detector=options.detector,
            detect=detect,
            faces=options.faces,
            person=options.person,
            boxes=options.boxes,
            clips=options.clips,
            precision=options.precision,
            isolate=options.isolate,
            engine=engine,
            device=options.device,
            shard=shard,
            keep=keep,
            advance=advance,
            progress=progress,
        )
    if options.json and not shard:
        write_scores(options.json, predictions, band)
        if keep:
            keep.unlink()
    status = print_predictions(console, predictions, band)
    if shard:
        print_lines(console, f"shard {shard}: {keep}")
    return status


def write_scores(path: Path, predictions: Sequence[Prediction], band: Band | None = None) -> None:
    """Write the JSON file of predictions; with a band, verdicts are withheld in it, and it is in each of them."""
    from dataloading.io import write_json
    from istvt.inference.predict import verdicts_to_dict

    write_json(path, [verdicts_to_dict(prediction, band) for prediction in predictions])


def print_predictions(console: Console, predictions: Sequence[Prediction], band: Band | None = None) -> int:
    """Print the verdicts, and why files were not scored; return the exit status. Verdicts in a band are withheld."""
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in predictions:
        if prediction.score:
            _print_verdicts(console, prediction, band)
    print_lines(console, *(f"not scored  {prediction.error}" for prediction in failed))
    if len(predictions) > 1:
        print_lines(console, f"{len(predictions) - len(failed)} of {len(predictions)} videos scored")
    return PROBLEM_FOUND if failed else 0


def _verdict(score: PersonScore, band: Band | None) -> str:
    return band.verdict(score.probability) if band else score.verdict


def _print_verdicts(console: Console, prediction: Prediction, band: Band | None) -> None:
    """Print the verdict of a video, and below it that of each person where there are several."""
    score, people = prediction.score, prediction.people
    several = len(people) > 1
    about = f"{score.name} of {len(people)}" if several else _seen(score, prediction)
    if not several and score.number not in (None, 1):
        about = f"{score.name}, {about}"
    verdict = f"{_colored(_verdict(score, band))}  probability of fake {score.probability:6.1%}"
    if band:
        verdict += f", calibrated {band.calibrated(score.probability):.1%}"
    _print_verdict(console, f"{verdict}  ({about})  {escape(str(prediction.path))}")
    for person in people:
        if several:
            x0, y0, x1, y1 = person.box
            frame = person.clip_frames[person.surest_clip][0]
            about = f"{_seen(person, prediction)}; around x {(x0 + x1) / 2:.0f}, y {(y0 + y1) / 2:.0f} in frame {frame}"
            verdict = f"{_colored(_verdict(person, band))} {person.probability:6.1%}"
            _print_verdict(console, f"      {person.name}: {verdict}  ({about})")
        indent = f"      {person.name}: " if several else "      "
        if (shot := person.most_suspicious_shot) and shot.verdict == "fake":
            by = counted(shot.clips, "clip")
            where = shot.place(prediction.fps)
            print_lines(console, f"{indent}most suspicious in {where}: {shot.probability:.1%} by {by}")
        if person.remark:
            print_lines(console, f"{indent}{person.remark}", style="yellow")
    if prediction.remark:
        print_lines(console, f"      {prediction.remark}", style="yellow")
    print_lines(console, *(f"      {sentence}" for sentence in prediction.not_scored), style="yellow")


def _print_verdict(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False)


def _seen(person: PersonScore, prediction: Prediction) -> str:
    clips = counted(len(person.clip_probabilities), "clip")
    if person.number is None or not prediction.fps:
        return clips
    return f"{clips}, seen {person.seconds:.1f} of {prediction.frames / prediction.fps:.1f} s"


def _colored(verdict: str) -> str:
    return f"[{ {'fake': 'red', 'real': 'green'}.get(verdict, 'yellow') }]{verdict:<4}[/]"
