"""The `istvt` command: one subcommand an activity, typed options, one sentence for a mistake.

Every option can also stand in a YAML file given with --config; --print_config prints one to start from.
Heavy packages are imported by the subcommands that need them, so that --help is quick.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
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
    """Run one command; returns the exit status (0 done, 1 something was wrong with some input, 2 could not be done)."""
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
    # A process of torchrun may be waiting in a collective, which no handler interrupts: it must still end at once.
    if "TORCHELASTIC_RUN_ID" in os.environ or threading.current_thread() is not threading.main_thread():
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
    if error.filename is None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"what this command writes does not fit on the disk ({error.strerror})" if full else None
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


def _add_checkpoint(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("runs/latest"),
        help="a .safetensors file of istvt train, or the run's directory",
    )


def _add_finding(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--detector", type=str, default="auto", help="yuface, dlib, opencv; auto takes the best installed"
    )
    parser.add_argument("--no-detect", dest="no_detect", action="store_true", help="videos are face crops already")


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
    parser.add_argument("--output", type=Path, default=Path("runs/latest"), help="directory of the run")
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
    from .training import train

    training = options.training.as_dict()
    if options.backbone_weights is not None:
        training["backbone_weights"] = options.backbone_weights
    result = train(
        DataSettings(**options.data.as_dict()),
        _model_of(options),
        TrainingSettings(**training),
        options.output,
        device=options.device,
        console=console,
    )
    console.print(f"best epoch {result.best_epoch}: {result.checkpoint}")
    if result.skipped:
        console.print(f"{len(result.skipped)} videos were skipped:")
        for name, reason in result.skipped:
            console.print(f"  {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _add_evaluate(parser: ArgumentParser, base: ISTVTConfig) -> None:
    _add_checkpoint(parser)
    parser.add_argument("--output", type=Path | None, default=None, help="directory; default: evaluation/ in the run")
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
    parser.add_class_arguments(DataSettings, "data")


def _evaluate(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """Evaluate a checkpoint by video and write report.html, evaluation.json and scores.csv.

    A video's score is the mean of its clips' probabilities; every figure has a 95 % interval."""
    from .evaluation import evaluate_checkpoint
    from .explain.faithfulness import orderings_of
    from .summary import summary

    if options.bootstrap < 1:
        raise InputError(f"--bootstrap is {options.bootstrap}; expected at least 1")
    for option, value in (("--stabilizers", options.stabilizers), ("--fill", options.fill)):
        if value is not None and not options.explain:
            raise InputError(f"{option} is given without --explain, which measures with it")
    if options.stabilizers is not None:
        orderings_of(stabilizers=options.stabilizers)  # a mistake is said before the evaluation, not after it
    checkpoint = options.checkpoint
    output = options.output or (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "evaluation"
    with _bar(console, "scoring clips") as update:
        result = evaluate_checkpoint(
            checkpoint,
            DataSettings(**options.data.as_dict()),
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
            console.print(f"  {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nreport: {result.report}", soft_wrap=True)
    if options.explain:
        _measure_explanations(options, output / "explanations", console)
    return 0


def _measure_explanations(options: Namespace, output: Path, console: Console) -> None:
    """Deletion curves, pointing game and mass inside the mask, for every method and for random order."""
    from .checkpoint import load_model
    from .data import open_dataset
    from .explain import DEFAULT_STABILIZER
    from .explain.faithfulness import evaluate_explanations
    from .explain.faithfulness_report import faithfulness_table, write_faithfulness
    from .precision import pick_device

    data = DataSettings(**options.data.as_dict())
    model, _ = load_model(options.checkpoint, pick_device(options.device))
    dataset, index = open_dataset(data)
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
    written = write_faithfulness(result, output)
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
    from .checkpoint import load_model
    from .evaluation import write_json
    from .output import output_directory
    from .precision import pick_device
    from .prediction import predict, video_files

    if options.clips < 1:
        raise InputError(f"--clips is {options.clips}; expected at least 1")
    if options.json and output_directory(options.json.parent) and options.json.is_dir():
        raise InputError(f"--json {options.json}: is a directory; expected a file to write")
    model, _ = load_model(options.checkpoint, pick_device(options.device))
    files = video_files(options.videos)
    done = 0
    with _bar(console, "scoring videos") as update:

        def advance(_: Any) -> None:
            nonlocal done
            done += 1
            update(done, len(files))

        predictions = predict(
            model,
            files,
            detector=options.detector,
            detect=not options.no_detect,
            clips_per_video=options.clips,
            advance=advance,
        )
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in predictions:
        if prediction.score:
            score = prediction.score
            style = "red" if score.verdict == "fake" else "green"
            console.print(
                f"[{style}]{score.verdict:<4}[/]  {score.probability:6.1%} fake  "
                f"({len(score.clip_probabilities)} clips)  {escape(str(prediction.path))}",
                soft_wrap=True,
                highlight=False,
            )
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
            }
            for p in predictions
        ]
        write_json(options.json, rows)
    if len(predictions) > 1:
        console.print(f"{len(predictions) - len(failed)} of {len(predictions)} videos scored")
    return PROBLEM_FOUND if failed else 0


def _add_explain(parser: ArgumentParser, base: ISTVTConfig) -> None:
    parser.add_argument("video", type=Path, help="the video to explain")
    _add_checkpoint(parser)
    parser.add_argument("--out", type=Path, default=Path("explanation"), help="directory of everything that is written")
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
    from .explain.video import explain_video
    from .precision import pick_device

    if options.clips < 1:
        raise InputError(f"--clips is {options.clips}; expected at least 1")
    with _bar(console, "explaining") as update:
        explanation = explain_video(
            options.video,
            options.checkpoint,
            options.out,
            detector=options.detector,
            detect=not options.no_detect,
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
    console.print(f"{score.verdict} at {score.probability:.1%} fake: {options.video}", highlight=False, soft_wrap=True)
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

    signs = {"ok": "[green]ok[/]     ", "missing": "[dim]absent[/] ", "warning": "[yellow]warning[/]"}
    findings = examine()
    for finding in findings:
        console.print(
            f"{signs[finding.state]}  {finding.part:<15} {escape(finding.detail)}", highlight=False, soft_wrap=True
        )
    return PROBLEM_FOUND if any(finding.state == "warning" for finding in findings) else 0


def _add_output(parser: ArgumentParser, base: ISTVTConfig) -> None:
    parser.add_argument("--output", type=Path | None, default=None, help="directory of everything that is written")


def _add_experiment(parser: ArgumentParser, base: ISTVTConfig) -> None:
    _add_output(parser, base)
    parser.add_argument("--documents", type=Path | None, default=None, help="also write its pages to this directory")
    parser.add_argument(
        "--readme", type=Path | None, default=None, help="also write a short table between this file's markers"
    )


def _demo(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """The whole path in a few minutes: draw videos, prepare, train, evaluate on unseen people, score a fresh video.

    Run again, it uses what is already there."""
    from .demo import demo

    return demo(options.output or Path("runs/demo"), console)


def _experiment(parser: ArgumentParser, options: Namespace, console: Console) -> int:
    """What each attention can see: train `spatial_only` and the full model on the synthetic set, with several seeds.

    The first judges each frame alone and cannot see flicker; the full model can; both see blend. Then measure whether
    the explanations of the full models are true of them: deletion curves, pointing game, heat inside the mask."""
    from .experiment import experiment

    return experiment(options.output or Path("runs/experiment"), console, options.documents, options.readme)


def _bar(console: Console, description: str) -> Any:
    """A progress bar as a context; what it gives is called with (done, total) and, if that changes, what is done."""
    import contextlib

    from rich.progress import Progress

    @contextlib.contextmanager
    def show() -> Iterator[Callable[..., None]]:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(description, total=None)
            yield lambda done, total, what=description: progress.update(
                task, completed=done, total=total, description=what
            )

    return show()


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
    "demo": (_add_output, _demo, "the whole path in a few minutes"),
    "experiment": (_add_experiment, _experiment, "measure what each attention sees and whether explanations are true"),
}

if __name__ == "__main__":
    sys.exit(main())
