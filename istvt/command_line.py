"""The `istvt` command: one subcommand an activity, typed options, one sentence for a mistake.

Every option can also stand in a YAML file given with --config; --print_config prints one to start from.
Heavy packages are imported by the subcommands that need them, so that --help is quick.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape

from dataloading.errors import InputError

from .config import PRESETS, ISTVTConfig, preset
from .option_parser import OptionParser, read_settings_file
from .say_once import another_has_said_why, first_to_say
from .settings import DataSettings, TrainingSettings

USAGE_ERROR = 2
PROBLEM_FOUND = 1
STOPPED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
# What is first in a run (decoders, memory) takes longer than the rest, and no estimate should be made of it.
SECONDS_TO_ESTIMATE = 20
# Commands that keep what they have finished and use it when they are called again.
GO_ON = ("synthesize", "prepare", "train", "demo", "experiment")

DESCRIPTION = """Detect forged faces in videos, and see where and when the evidence is.

A first run:
  istvt synthesize data/synthetic          draw a demonstration set
  istvt prepare data/synthetic --no-detect its videos are face crops already
  istvt train --data.root data/synthetic --output runs/first
  istvt evaluate --checkpoint runs/first --data.root data/synthetic
  istvt predict VIDEO... --checkpoint runs/first
  istvt explain VIDEO --checkpoint runs/first --out why"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 done, 1 something was wrong with some input, 2 could not be done, 130 or 143 stopped by Ctrl-C or SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console, errors, name = Console(), Console(stderr=True), None
    try:
        with _sigterm_stops():
            parser, commands = build_parser(_preset_of(arguments))
            if not arguments:
                parser.print_help()
                return USAGE_ERROR
            for argument in arguments:
                _check_text(argument)
            options = parser.parse_args(arguments)
            name = options.subcommand
            return commands[name](parser, options[name], console)
    except InputError as error:
        _say(errors, str(error))
        return USAGE_ERROR
    except KeyboardInterrupt as stop:
        kept = "; what was finished is kept, and the same command goes on from there" if name in GO_ON else ""
        _say(errors, f"stopped{kept}")
        return TERMINATED if isinstance(stop, _Terminated) else STOPPED
    except Exception as error:
        if another_has_said_why():
            return USAGE_ERROR
        refusal = _refusal(error)
        if refusal is None:
            raise
        _say(errors, refusal)
        return USAGE_ERROR


def _check_text(argument: str) -> None:
    """File names may be any bytes; the parser of options takes text alone, and says so in words of its own."""
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        printable = os.fsencode(argument).decode(errors="backslashreplace")
        raise InputError(f"{printable}: is not UTF-8; expected a name in UTF-8, which a link to it may have") from error


class _Terminated(KeyboardInterrupt):
    """SIGTERM, from whoever ends processes: a person, a scheduler, a machine that is shut down."""


@contextlib.contextmanager
def _sigterm_stops() -> Iterator[None]:
    """Within it SIGTERM is what Ctrl-C is; by itself it would end this process before it could end its workers."""
    # One of several processes may be waiting in a collective, which no handler interrupts: it must still end at once.
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks twice does not want to wait
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refusal(error: Exception) -> str | None:
    """The sentence for what the machine refuses: a file that cannot be read or written, a full disk."""
    if not isinstance(error, OSError) or not error.strerror:
        return None
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full:
        return f"{error.filename or 'what this command writes'}: does not fit on the disk ({error.strerror})"
    if error.filename is None:
        return None
    return f"{error.filename}: cannot be read or written ({error.strerror})"


def _say(console: Console, sentence: str) -> None:
    if first_to_say(sentence):
        console.print(f"[red]istvt:[/] {escape(sentence)}", soft_wrap=True, highlight=False)


Command = Callable[[ArgumentParser, Namespace, Console], int]


def build_parser(base: ISTVTConfig) -> tuple[ArgumentParser, dict[str, Command]]:
    """The parser and what runs for each subcommand; `base` gives the defaults of the model's options."""
    parser = OptionParser(prog="istvt", description=DESCRIPTION)
    subcommands = parser.add_subcommands(required=True)
    commands: dict[str, Command] = {}
    for name, (add, run, help_line) in _COMMANDS.items():
        sub = OptionParser(prog=f"istvt {name}", description=run.__doc__)
        sub.add_argument("--config", action="config", help="YAML file with any of these options")
        add(sub, base)
        subcommands.add_subcommand(name, sub, help=help_line)
        commands[name] = run
    return parser, commands


def _preset_of(arguments: Sequence[str]) -> ISTVTConfig:
    """The preset that the command line or a settings file names: the defaults under which the options are read."""
    in_files = [read_settings_file(path).get("preset") for path in _given(arguments, "--config")]
    named = [name for name in in_files if name is not None] + _given(arguments, "--preset")
    return preset(str(named[-1])) if named else PRESETS["small"]


def _given(arguments: Sequence[str], option: str) -> list[str]:
    """The values that an option is given, in order."""
    values = [argument.removeprefix(f"{option}=") for argument in arguments if argument.startswith(f"{option}=")]
    return values + [value for name, value in pairwise(arguments) if name == option]


def _add_model(parser: ArgumentParser, base: ISTVTConfig) -> None:
    parser.add_argument("--preset", choices=list(PRESETS), default="small", help="where the model's options start from")
    parser.add_class_arguments(ISTVTConfig, "model")
    parser.set_defaults({f"model.{name}": value for name, value in asdict(base).items()})


def _add_device(parser: ArgumentParser) -> None:
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")


def _check_device_name(device: str) -> None:
    """Refuse what can be no device, before PyTorch is there to ask."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise InputError(f"device is {device!r}; expected auto, cpu, cuda or cuda:N")


def _starting(console: Console) -> contextlib.AbstractContextManager[Any]:
    """Something to see while PyTorch is imported, which takes seconds."""
    return console.status("starting") if console.is_terminal else contextlib.nullcontext()


def _add_checkpoint(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("runs/latest"),
        help="a .safetensors file of istvt train, or the run's directory",
    )


def _add_finding(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--detector",
        type=str,
        default="auto",
        help="yuface, dlib, opencv: look for faces with it; auto crops videos as those of training were",
    )
    parser.add_argument(
        "--no-detect",
        dest="no_detect",
        action="store_true",
        help="videos are face crops already: take whole pictures, whatever training did",
    )
    parser.add_argument("--detect", action="store_true", help="look for faces, whatever training did")


def _detect(options: Namespace) -> bool | None:
    """Whether faces are to be looked for; None where that is not said."""
    other = "--detect" if options.detect else f"--detector {options.detector}" if options.detector != "auto" else None
    if options.no_detect and other:
        raise InputError(f"{other} and --no-detect are given together; expected one of them")
    return True if options.detect else False if options.no_detect else None


def _model_of(options: Namespace) -> ISTVTConfig:
    return ISTVTConfig(**options.model.as_dict())


def _add_synthesize(parser: ArgumentParser, base: ISTVTConfig) -> None:
    parser.add_argument("directory", type=Path, help="root of the set; videos that are there already are kept")
    parser.add_argument("--identities", type=int, default=48, help="people, an even number")
    parser.add_argument("--videos_per_identity", type=int, default=1, help="real videos of each person")
    parser.add_argument("--frames", type=int, default=24, help="frames a video")
    parser.add_argument("--size", type=int, default=128, help="side of the square picture in pixels, even")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")


def _synthesize(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """Write a synthetic set in the shape of FaceForensics++: H.264 videos of drawn, moving faces, and three forgeries.

    blend: another face blended in (a spatial trace). flicker: each frame is as plausible as a real one but does not
    agree with its neighbours (a purely temporal trace). both: both. It is for demonstration and tests: it says nothing
    about accuracy on real forgeries."""
    from dataloading.synthetic import synthesize

    values = options.as_dict()
    directory = values.pop("directory")
    values.pop("config", None)
    done = synthesize(directory, **values)
    console.print(f"{directory}: {done.written} videos drawn, {done.already_there} were there already")
    return 0


def _add_prepare(parser: ArgumentParser, base: ISTVTConfig) -> None:
    parser.add_argument("dataset", type=Path, help="root of the data set")
    parser.add_argument("--layout", type=str, default="auto", help="its layout; auto recognises it")
    parser.add_argument("--compression", type=str, default="c23", help="FaceForensics++ compression: raw, c23, c40")
    parser.add_argument(
        "--originals", type=Path | None, default=None, help="DeeperForensics: root with the real videos"
    )
    parser.add_argument(
        "--detector", type=str, default="auto", help="yuface, dlib, opencv; auto takes the best installed"
    )
    parser.add_argument("--no-detect", dest="no_detect", action="store_true", help="videos are face crops already")
    parser.add_argument("--boxes", type=Path | None, default=None, help="JSON file of face boxes made elsewhere")
    parser.add_argument("--every", type=int, default=5, help="look for the face on every so many frames")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="do videos again whose boxes are there but of another kind than asked for",
    )


def _prepare(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """Find the main face of every video of a data set and write its boxes to face_index.jsonl in the set's root.

    Goes on where an earlier run stopped. A video without a face, too short for a clip or damaged is listed at the end
    with the reason, and never stops the run (the exit status is 1 then)."""
    from dataloading import format_summary, read_dataset
    from dataloading.prepare import prepare, unusable

    dataset = read_dataset(options.dataset, options.layout, options.compression, options.originals)
    index = prepare(
        dataset,
        detector=options.detector,
        detect=not options.no_detect,
        boxes=options.boxes,
        every=options.every,
        workers=options.workers,
        replace=options.replace,
        before=lambda: console.print(format_summary(dataset.summary()), markup=False, highlight=False),
    )
    return PROBLEM_FOUND if unusable(index, dataset.videos) else 0


def _add_dataset(parser: ArgumentParser, base: ISTVTConfig) -> None:
    parser.add_argument("dataset", type=Path, help="root of the data set")
    parser.add_argument("--layout", type=str, default="auto", help="its layout; auto recognises it")
    parser.add_argument("--compression", type=str, default="c23", help="FaceForensics++ compression: raw, c23, c40")
    parser.add_argument(
        "--originals", type=Path | None, default=None, help="DeeperForensics: root with the real videos"
    )
    parser.add_argument("--list", dest="list_all", action="store_true", help="name every file that is left out")


def _dataset(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """Say what a data set holds: videos by class, split and manipulation, and what is left out and why."""
    from dataloading import format_summary, read_dataset

    dataset = read_dataset(options.dataset, options.layout, options.compression, options.originals)
    console.print(format_summary(dataset.summary()), markup=False, highlight=False)
    if options.list_all:
        for item in dataset.left_out:
            console.print(f"  {item.path}: {item.reason}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _add_train(parser: ArgumentParser, base: ISTVTConfig) -> None:
    parser.add_argument("--output", "--out", type=Path, default=Path("runs/latest"), help="directory of the run")
    _add_device(parser)
    parser.add_class_arguments(DataSettings, "data")
    _add_model(parser, base)
    parser.add_class_arguments(TrainingSettings, "training")
    parser.add_argument(
        "--backbone-weights", type=Path | None, default=None, help="short for --training.backbone_weights"
    )


def _train(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """Train a detector, validate it by video each epoch, keep the checkpoint with the best validation AUC.

    A run that was stopped or killed goes on from its last checkpoint when the same command is given again: there is one
    before and after the validation of each epoch, and more every so many minutes or steps."""
    from dataloading.layouts import require_directory

    values = options.training.as_dict()
    if options.backbone_weights is not None:
        values["backbone_weights"] = options.backbone_weights
    data, model, training = DataSettings(**options.data.as_dict()), _model_of(options), TrainingSettings(**values)
    _check_device_name(options.device)
    require_directory(data.root)
    with _starting(console):
        from .training import train
    result = train(data, model, training, options.output, device=options.device, console=console)
    console.print(f"best epoch {result.best_epoch}: {result.checkpoint}", soft_wrap=True)
    return 0


def _add_evaluate(parser: ArgumentParser, base: ISTVTConfig) -> None:
    _add_checkpoint(parser)
    parser.add_argument(
        "--output",
        "--out",
        type=Path | None,
        default=None,
        help="directory; default: in the run, or beside a .safetensors file, evaluation/ for the test split of the "
        "data set that was trained on, and evaluation-SET-SPLIT/ for anything else",
    )
    parser.add_argument("--split", choices=["train", "val", "test"], default="test")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--bootstrap", type=int, default=2000, help="resamples behind the intervals")
    parser.add_argument("--explain", action="store_true", help="also measure how faithful each explanation method is")
    parser.add_argument(
        "--stabilizers",
        type=list[float | str] | None,
        default=None,
        help="with --explain: LRP is measured with each of these, numbers or 'reference'; default: its default",
    )
    parser.add_argument(
        "--fill",
        type=Literal["surroundings", "grey"] | None,
        default=None,
        help="with --explain: what stands where pixels were removed, surroundings if not given; grey can look forged",
    )
    _add_device(parser)
    parser.add_class_arguments(DataSettings, "data", skip={"train_clips"})


def _evaluate(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """Evaluate a checkpoint by video and write report.html, evaluation.json and scores.csv.

    A video's score is the mean of its clips' probabilities; every figure has a 95 % interval."""
    from dataloading.layouts import require_directory

    from .model_file import model_file

    if options.bootstrap < 1:
        raise InputError(f"--bootstrap is {options.bootstrap}; expected at least 1")
    for option, value in (("--stabilizers", options.stabilizers), ("--fill", options.fill)):
        if value is not None and not options.explain:
            raise InputError(f"{option} is given without --explain, which measures with it")
    data = DataSettings(**options.data.as_dict())
    _check_device_name(options.device)
    require_directory(data.root)
    model_file(options.checkpoint)
    with _starting(console):
        from .evaluation import evaluate_checkpoint
        from .explain.faithfulness import orderings_of
        from .summary import skipped_line, summary
    if options.stabilizers is not None:
        orderings_of(stabilizers=options.stabilizers)  # a mistake is said before the evaluation, not after it
    output = _evaluation_directory(options, data, console)
    with _bar(console, "scoring clips") as update:
        result = evaluate_checkpoint(
            options.checkpoint,
            data,
            output,
            split=options.split,
            device=options.device,
            precision=options.precision,
            batch_size=options.batch_size,
            bootstrap=options.bootstrap,
            advance=update,
        )
    console.print(summary(result.evaluation))
    for note in result.notes:
        console.print(note, style="dim", markup=False, soft_wrap=True)
    if result.skipped:
        console.print(f"{len(result.skipped)} videos or clips could not be scored:")
        for name, reason in result.skipped:
            console.print(f"  {skipped_line(name, reason)}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nreport: {result.report}", soft_wrap=True)
    if options.explain:
        _measure_explanations(options, output, console)
    return 0


def _evaluation_directory(options: Namespace, data: DataSettings, console: Console) -> Path:
    """Where the evaluation goes; one of other videos is replaced only where the place was named."""
    from .checkpoint import read_info
    from .evaluation import default_output, evaluated_set, foreign_explanations, replaced_evaluation

    info = read_info(options.checkpoint)
    output = options.output or default_output(options.checkpoint, info, data, options.split)
    evaluated = evaluated_set(info, data, options.split)
    replaced, foreign = replaced_evaluation(output, evaluated), foreign_explanations(output, evaluated)
    held, same_videos = replaced or ("", True)
    # Of the same videos the run's own place can only hold its own model, before it was trained on.
    if options.output is None and not same_videos:
        raise InputError(f"{output} holds an evaluation of {held}; give this one an --output")
    if foreign and not options.explain:
        raise InputError(f"{foreign}; measure them again with --explain, or choose another --output")
    if replaced:
        console.print(f"{output} held an evaluation of {held}, which this one replaces", soft_wrap=True)
    return output


def _measure_explanations(options: Namespace, output: Path, console: Console) -> None:
    """Deletion curves, pointing game and mass inside the mask, for every method and for random order."""
    from .checkpoint import load_model
    from .data import open_dataset
    from .evaluation import EXPLANATIONS, evaluated_set
    from .explain import DEFAULT_STABILIZER
    from .explain.faithfulness import evaluate_explanations
    from .explain.faithfulness_report import faithfulness_table, write_faithfulness
    from .precision import pick_device
    from .report import add_explanations

    data = DataSettings(**options.data.as_dict())
    model, info = load_model(options.checkpoint, pick_device(options.device))
    dataset, index = open_dataset(data)
    console.print(
        "now the explanations: every clip is explained by each method and scored again with pixels removed, which "
        "takes many times as long",
        style="dim",
        soft_wrap=True,
    )
    with _bar(console, "explaining clips") as update:
        result = evaluate_explanations(
            model,
            dataset,
            index,
            split=options.split,
            stabilizers=options.stabilizers or (DEFAULT_STABILIZER,),
            fill=options.fill or "surroundings",
            clips_per_video=data.evaluation_clips,
            decoder=data.decoder,
            workers=data.workers,
            advance=update,
        )
    result.evaluated = evaluated_set(info, data, options.split)
    written = write_faithfulness(result, output / EXPLANATIONS)
    add_explanations(output / "report.html", result, written["plot"])
    console.print(faithfulness_table(result), markup=False, highlight=False, soft_wrap=True)
    console.print(f"explanations: {', '.join(str(path) for path in written.values())}", soft_wrap=True)


def _add_predict(parser: ArgumentParser, base: ISTVTConfig) -> None:
    _add_checkpoint(parser)
    parser.add_argument("videos", type=Path, nargs="+", help="video files, or directories of them")
    _add_finding(parser)
    parser.add_argument("--clips", type=int, default=8, help="clips scored a video")
    parser.add_argument("--json", type=Path | None, default=None, help="also write the scores to this file")
    _add_device(parser)


def _predict(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """Say of any video whether its face is forged.

    A file that cannot be scored is named with the reason; the others are scored all the same, and the exit status is 1.
    """
    from dataloading.video_files import video_files

    from .model_file import model_file

    if options.clips < 1:
        raise InputError(f"--clips is {options.clips}; expected at least 1")
    if options.json and options.json.is_dir():
        raise InputError(f"--json {options.json}: is a directory; expected a file to write")
    if options.json and not options.json.parent.is_dir():
        raise InputError(f"--json {options.json}: there is no directory {options.json.parent}; expected a file in one")
    detect = _detect(options)
    _check_device_name(options.device)
    model_file(options.checkpoint)
    files, left_out = video_files(options.videos)
    with _starting(console):
        from .checkpoint import load_model
        from .evaluation import write_json
        from .output import output_directory
        from .precision import pick_device
        from .prediction import predict
    if options.json:
        output_directory(options.json.parent)  # it can be written in
    model, info = load_model(options.checkpoint, pick_device(options.device))
    for reason, count in Counter(item.reason for item in left_out).items():
        console.print(f"{_counted(count, 'video')} left out: {reason}", style="dim", soft_wrap=True)
    done = 0
    with _bar(console, "scoring videos") as update:

        def advance(prediction: Any) -> None:
            nonlocal done
            if not done:  # what makes every verdict doubtful is said before hours of them, not after
                _say_doubts(prediction.notes, console)
            done += 1
            update(done, len(files))

        predictions = predict(
            model,
            files,
            info=info,
            detector=options.detector,
            detect=detect,
            clips_per_video=options.clips,
            advance=advance,
        )
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in predictions:
        if prediction.score:
            score = prediction.score
            style = "red" if score.verdict == "fake" else "green"
            console.print(
                f"[{style}]{score.verdict:<4}[/]  probability of fake {score.probability:6.1%}  "
                f"({_counted(len(score.clip_probabilities), 'clip')})  {escape(str(prediction.path))}",
                soft_wrap=True,
                highlight=False,
            )
            if prediction.remark:
                _say_doubts([f"      {prediction.remark}"], console)
    for prediction in failed:
        console.print(f"not scored  {prediction.error}", markup=False, highlight=False, soft_wrap=True)
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
    if len(predictions) > 1:
        console.print(f"{len(predictions) - len(failed)} of {len(predictions)} videos scored")
    return PROBLEM_FOUND if failed else 0


def _say_doubts(sentences: Sequence[str], console: Console) -> None:
    """What a person should know before relying on a verdict."""
    for sentence in sentences:
        console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _add_explain(parser: ArgumentParser, base: ISTVTConfig) -> None:
    parser.add_argument("video", type=Path, help="the video to explain")
    _add_checkpoint(parser)
    parser.add_argument(
        "--out", "--output", type=Path, default=Path("explanation"), help="directory of everything that is written"
    )
    parser.add_argument(
        "--target", choices=["verdict", "fake", "real"], default="verdict", help="which side's evidence is shown"
    )
    parser.add_argument(
        "--method", choices=["lrp", "gradient", "rollout", "raw", "gradcam"], default="lrp", help="how it is found"
    )
    parser.add_argument(
        "--stabilizer",
        type=float | str,
        default=0.01,
        help="with lrp: relevance is divided by sums that may cancel, so each is enlarged by this part of what was "
        "added up; larger is smoother, smaller closer to the rule. 'reference' is the published 1e-9, in float64",
    )
    parser.add_argument(
        "--clamp",
        choices=["after_mean", "before_mean"],
        default="after_mean",
        help="with lrp or gradient: where evidence for the other side is cut off: after the mean over the heads, so "
        "that heads can contradict each other, or in each head before it, as the published code does",
    )
    parser.add_argument(
        "--order",
        choices=["last_block_first", "literal"],
        default="last_block_first",
        help="with lrp, gradient or rollout: how the blocks' maps are multiplied: from the logit down to the tokens, "
        "or in the order that the paper prints",
    )
    parser.add_argument(
        "--normalization",
        choices=["clip", "frame"],
        default="clip",
        help="the colours reach from the coldest to the hottest cell of the whole clip, or of each frame by itself",
    )
    parser.add_argument("--clips", type=int, default=3, help="clips explained: those that carry the verdict")
    _add_finding(parser)
    _add_device(parser)


def _explain(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """Show where and when a video's evidence is: relevance in time and in space, over the face and in the frame.

    Writes two videos, a strip of pictures a clip, explanation.json, and explanation.html, which shows all of it and
    opens from disk."""
    from .model_file import model_file

    if options.clips < 1:
        raise InputError(f"--clips is {options.clips}; expected at least 1")
    detect = _detect(options)
    _check_device_name(options.device)
    model_file(options.checkpoint)
    if not options.video.exists():
        raise InputError(f"{options.video} does not exist; expected a video file")
    with _starting(console):
        from .explain.video import explain_video
        from .precision import pick_device
    with _bar(console, "explaining") as update:
        explanation = explain_video(
            options.video,
            options.checkpoint,
            options.out,
            detector=options.detector,
            detect=detect,
            clips_explained=options.clips,
            target=options.target,
            method=options.method,
            stabilizer=options.stabilizer,
            clamp=options.clamp,
            order=options.order,
            normalization=options.normalization,
            device=str(pick_device(options.device)),
            advance=lambda what, done, total: update(done, total, what),
        )
    score = explanation.score
    verdict = f"{score.verdict}, probability of fake {score.probability:.1%}: {options.video}"
    console.print(verdict, markup=False, highlight=False, soft_wrap=True)
    _say_doubts(explanation.notes, console)
    explained, scored = len(explanation.clips), len(score.clip_probabilities)
    if explained < options.clips:
        console.print(
            f"clips explained: {explained} of {options.clips} asked for; the {scored} that were scored hold no more "
            "without a frame in common",
            highlight=False,
            soft_wrap=True,
        )
    if explanation.skipped:
        console.print(f"clips that could not be decoded: {len(explanation.skipped)}")
        for first, reason in explanation.skipped:
            console.print(f"  from frame {first}: {reason}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"open [bold]{options.out / 'explanation.html'}[/]", soft_wrap=True)
    return 0


def _add_model_command(parser: ArgumentParser, base: ISTVTConfig) -> None:
    _add_model(parser, base)
    parser.add_argument(
        "--backbone-weights", type=Path | None, default=None, help="check that this Xception file fits the backbone"
    )


def _model(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """Print a model's parameters and multiply-accumulates by part.

    The layers column is what the published cost tables count; attention products stand beside it."""
    from rich.table import Table

    from .cost import model_cost, total_cost

    config = _model_of(options)
    height, width = config.feature_grid
    console.print(
        f"{config.attention}, {config.frames} frames of {config.image_size} pixels: {config.frame_rows} frame rows x "
        f"{config.positions} positions ({height}x{width} grid), C={config.dim}, N={config.heads}, "
        f"D={config.resolved_head_dim}, M={config.depth}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("part", "parameters", "layers, G MAC", "attention products, G MAC", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for part in (*model_cost(config), total_cost(config)):
        numbers = (f"{part.parameters:,}", f"{part.layer_macs / 1e9:.3f}", f"{part.attention_macs / 1e9:.3f}")
        table.add_row(part.part, *numbers, style="bold" if part.part == "total" else None)
    console.print(table)
    if options.backbone_weights is not None:
        from .backbone import XceptionEntryFlow, load_backbone_weights

        ignored = load_backbone_weights(XceptionEntryFlow(config.backbone_dims, config.dim), options.backbone_weights)
        console.print(f"{options.backbone_weights} fits the backbone; {len(ignored)} tensors beyond it are ignored")
    return 0


def _add_nothing(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """A command without options of its own."""


def _doctor(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """Print what is installed and usable here, and warn where something is not what it seems."""
    from .doctor import examine

    signs = {"ok": "[green]ok[/]     ", "missing": "[dim]absent[/] ", "unusable": "[dim]no use[/] "}
    signs["warning"] = "[yellow]warning[/]"
    findings = examine()
    for finding in findings:
        console.print(
            f"{signs[finding.state]}  {finding.part:<15} {escape(finding.detail)}", highlight=False, soft_wrap=True
        )
    return PROBLEM_FOUND if any(finding.state == "warning" for finding in findings) else 0


def _add_demo(parser: ArgumentParser, base: ISTVTConfig) -> None:
    parser.add_argument("--output", "--out", type=Path, default=Path("runs/demo"), help="directory of all it writes")


def _add_experiment(parser: ArgumentParser, base: ISTVTConfig) -> None:
    parser.add_argument("--output", "--out", type=Path, default=Path("runs/experiment"), help="directory of the runs")
    parser.add_argument("--documents", type=Path | None, default=None, help="also write its pages to this directory")
    parser.add_argument(
        "--readme", type=Path | None, default=None, help="also write a short table between this file's markers"
    )


def _demo(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """The whole path in a few minutes: draw videos, prepare, train, evaluate on unseen people, score a fresh video.

    Run again, it uses what is already there."""
    with _starting(console):
        from .demo import demo

    return demo(options.output, console)


def _experiment(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """What each attention can see: train `spatial_only` and the full model on the synthetic set, with several seeds.

    The first judges each frame alone and cannot see flicker; the full model can; both see blend. Then measure whether
    the explanations of the full models are true of them: deletion curves, pointing game, heat inside the mask."""
    with _starting(console):
        from .experiment import experiment

    return experiment(options.output, console, options.documents, options.readme)


@contextlib.contextmanager
def _bar(console: Console, description: str) -> Iterator[Callable[..., None]]:
    """A progress bar; what it gives is called with (done, total) and, if that changes, what is done.

    In a file, where no bar moves, one line says after some seconds how long it will take, if that is over a minute.
    """
    from rich.progress import Progress

    started, announced = time.monotonic(), console.is_terminal
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None)

        def update(done: int, total: int, what: str = description) -> None:
            nonlocal announced
            progress.update(task, completed=done, total=total, description=what)
            seconds = time.monotonic() - started
            minutes = seconds / 60 * (total / done - 1) if done else 0
            if not announced and seconds > SECONDS_TO_ESTIMATE and minutes > 1:
                announced = True
                console.print(f"{what}: {done} of {total} done, about {minutes:.0f} min more", style="dim")

        yield update


_COMMANDS: dict[str, tuple[Callable[[ArgumentParser, ISTVTConfig], None], Command, str]] = {
    "synthesize": (_add_synthesize, _synthesize, "draw a demonstration set of real and forged videos"),
    "dataset": (_add_dataset, _dataset, "say what a data set holds and what is left out"),
    "prepare": (_add_prepare, _prepare, "find the faces of a data set"),
    "train": (_add_train, _train, "train a detector"),
    "evaluate": (_add_evaluate, _evaluate, "evaluate a checkpoint and write a report"),
    "predict": (_add_predict, _predict, "score videos"),
    "explain": (_add_explain, _explain, "show where and when a video's evidence is"),
    "model": (_add_model_command, _model, "print a model's parameters and cost"),
    "doctor": (_add_nothing, _doctor, "print what is installed and usable"),
    "demo": (_add_demo, _demo, "the whole path in a few minutes"),
    "experiment": (_add_experiment, _experiment, "measure what each attention sees and whether explanations are true"),
}

if __name__ == "__main__":
    sys.exit(main())
