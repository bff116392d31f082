"""`istvt evaluate`: metrics, scores and the report of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich.console import Console

from dataloading.dataset import SPLITS
from dataloading.errors import InputError, as_input_error
from istvt.cli.console import counted, print_lines, progress_bar, starting
from istvt.cli.options import (
    add_checkpoint,
    add_device,
    add_engine,
    add_precision,
    check_architecture,
    check_checkpoint,
    check_counts,
    check_default_data,
    check_device_name,
    engine_of,
    settings_of,
    shard_of,
)
from istvt.cli.parser import OptionParser
from istvt.config import AGNOSTIC_METHODS, QUICK_METHODS, DataSettings, DetectorConfig, FaithfulnessSettings

if TYPE_CHECKING:
    from istvt.evaluation.results import Robustness
    from istvt.report.evaluate_checkpoint import EvaluationResult

SANITY_CLIPS = 24


def add(parser: OptionParser, base: DetectorConfig) -> None:
    """Add the options."""
    add_checkpoint(parser)
    parser.add_argument(
        "--output",
        "--out",
        type=Path | None,
        default=None,
        help="directory; default: in the run, or beside a .safetensors file, evaluation/ for the test split of the "
        "data set that was trained on, and evaluation-SET-SPLIT/ for anything else",
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="that is evaluated")
    parser.add_argument("--batch-size", type=int, default=16, help="clips scored together; fewer take less memory")
    parser.add_argument("--bootstrap", type=int, default=2000, help="resamples behind the intervals")
    parser.add_argument("--explain", action="store_true", help="also measure how faithful each explanation method is")
    parser.add_argument(
        "--methods",
        type=list[str] | None,
        default=None,
        help=f"with --explain: only these; default: {', '.join(QUICK_METHODS)}; to be asked for by name, because they "
        f"take hundreds of forward passes a clip: {', '.join(AGNOSTIC_METHODS)}",
    )
    parser.add_argument(
        "--sanity",
        action="store_true",
        help=f"with --explain: also check on {SANITY_CLIPS} clips that each method depends on the weights, on the "
        "clip and on the class",
    )
    parser.add_argument(
        "--perturb",
        type=list[str] | None,
        default=None,
        help="also measure robustness: NAME:a..b (nine strengths), NAME:a..b/n, NAME:a,b,c or NAME alone, such as "
        "jpeg:10..50, downscale:0.1..0.9, dropout:8..40 (the paper's), h264:23,28,35,40, blur, noise, brightness, "
        "contrast, saturation, shift, drop, fps; given again, another one",
    )
    parser.repeatable.add("--perturb")
    add_device(parser)
    add_precision(parser)
    add_engine(parser)
    parser.add_data_set("data", skip={"train_clips", "region"})  # that is the checkpoint's


def run(options: Namespace, console: Console) -> int:
    """Evaluate a checkpoint by video and write report.html, evaluation.json and scores.csv.

      istvt evaluate --checkpoint runs/ffpp --data data/FaceForensics++ --perturb jpeg:10..50

    A video's score is the mean of its clips' probabilities; every metric has a 95 % interval.

    With --perturb the videos are scored again with each perturbation at each strength: curves in the report, beside the
    unperturbed videos, and numbers in robustness.json and robustness.csv. JPEG to saturation change the face crops in
    the size of the model's input, shift moves the box of the face, drop and fps leave frames out, and h264 encodes the
    whole video once more, which takes the longest. Curves of an earlier call on the same model and videos stay. What is
    done is kept in robustness.json.unfinished until they are written: a sweep that was stopped goes on.

    On many machines (--engine ray, or --shard and `istvt merge`) the files are the same as from one. With --engine ray
    what is done is kept in evaluation.json.unfinished until they are written, and the same command goes on from it.
    Shards of an evaluation are merged first, and those of its perturbed videos then."""
    from dataloading.layouts import require_directory
    from dataloading.perturbations import check_root, parse_sweeps

    check_counts(options, "bootstrap", "batch_size")
    shard = shard_of(options)
    if options.explain and (shard or options.engine != "local"):
        raise InputError("--explain measures on one machine; expected it without --shard and --engine ray")
    sweeps = parse_sweeps(options.perturb or ())
    for option, value in (("--methods", options.methods), ("--sanity", options.sanity or None)):
        if value is not None and not options.explain:
            raise InputError(f"{option} is given without --explain, which measures with it")
    with as_input_error():  # invalid options are refused before the evaluation, not after it
        chosen = QUICK_METHODS if options.methods is None else tuple(options.methods)
        settings = FaithfulnessSettings(
            chosen,
            clips_per_video=options.data.evaluation_clips,
            sanity=SANITY_CLIPS if options.sanity else 0,
        )
    data = settings_of(DataSettings, options.data)
    check_device_name(options.device)
    check_default_data(data)
    require_directory(data.root)
    check_root(sweeps, data.root)
    check_checkpoint(options)
    with starting(console):
        from istvt.report.evaluate_checkpoint import evaluate_checkpoint, evaluate_shard
        from istvt.report.evaluate_robustness import evaluate_robustness_shard
    how = {name: options[name] for name in ("split", "device", "precision", "batch_size", "bootstrap")}
    output = _evaluation_directory(options, data, console)
    with engine_of(options, console) as engine, progress_bar(console, "scoring clips") as update:
        if shard:
            path, failed = evaluate_shard(options.checkpoint, data, output, shard, **how, advance=update)
            print_lines(console, f"shard {shard}: {path}" + (f", without {counted(failed, 'video')}" if failed else ""))
            if options.perturb:
                path = evaluate_robustness_shard(
                    options.checkpoint, data, output, options.perturb, shard, **how, advance=update
                )
                print_lines(console, f"shard {shard}, perturbed: {path}; merge it after the other")
            return 0
        result = _stopped_later(options, data, output)
        if result is None:
            result = evaluate_checkpoint(options.checkpoint, data, output, **how, engine=engine, advance=update)
        print_evaluation(console, result)
        if options.perturb:
            _measure_robustness(options, data, output, console, **how, engine=engine)
    if options.explain:
        _measure_explanations(options, data, settings, output, console)
    return 0


def print_evaluation(console: Console, result: EvaluationResult) -> None:
    """Print the metrics, the notes, what could not be scored, and the place of the report."""
    from istvt.evaluation.results import skipped_line
    from istvt.report.summary import summary

    console.print(summary(result.evaluation))
    print_lines(console, *result.evaluation.notes, style="dim")
    if result.evaluation.skipped:
        print_lines(console, f"{len(result.evaluation.skipped)} videos or clips could not be scored:")
        print_lines(console, *(f"  {skipped_line(name, reason)}" for name, reason in result.evaluation.skipped))
    print_lines(console, f"\nreport: {result.report}")


def _evaluation_directory(options: Namespace, data: DataSettings, console: Console) -> Path:
    """Return the output directory; an evaluation of other videos there is replaced only with an explicit --output."""
    from istvt.explain.explanation import require_measurable
    from istvt.model.checkpoint import read_info
    from istvt.report.evaluation_files import default_output, evaluated_set, foreign_explanations, replaced_evaluation

    info = read_info(options.checkpoint)
    check_architecture(options)
    if options.explain:
        require_measurable(info.config)
    output = options.output or default_output(options.checkpoint, info, data, options.split)
    evaluated = evaluated_set(info, data, options.split)
    replaced, foreign = replaced_evaluation(output, evaluated), foreign_explanations(output, evaluated)
    held, same_videos = replaced or ("", True)
    # In the run's own directory an evaluation of the same videos is of an earlier state of the same model.
    if options.output is None and not same_videos:
        raise InputError(f"{output} holds an evaluation of {held}; give this one an --output")
    if foreign and not options.explain:
        raise InputError(f"{foreign}; measure them again with --explain, or choose another --output")
    if replaced:
        print_lines(console, f"{output} held an evaluation of {held}, which this one replaces")
    return output


def _stopped_later(options: Namespace, data: DataSettings, output: Path) -> EvaluationResult | None:
    """Return the evaluation that is there where an earlier call was stopped while it scored perturbed videos."""
    from dataloading.engines.journal import unfinished
    from istvt.report.evaluate_checkpoint import EvaluationResult, is_evaluated
    from istvt.report.evaluation_files import REPORT, ROBUSTNESS, read_evaluation

    how = {name: options[name] for name in ("split", "precision", "bootstrap")}
    if not options.perturb or not unfinished(output / ROBUSTNESS).exists():
        return None
    if not is_evaluated(options.checkpoint, data, output, **how):
        return None
    return EvaluationResult(*read_evaluation(output), output / REPORT)


def _measure_robustness(options: Namespace, data: DataSettings, output: Path, console: Console, **how: Any) -> None:
    """Score the videos with each perturbation at each strength."""
    from istvt.report.evaluate_robustness import evaluate_checkpoint_robustness

    with progress_bar(console, "scoring perturbed clips") as update:
        curves = evaluate_checkpoint_robustness(
            options.checkpoint, data, output, options.perturb, **how, advance=update
        )
    print_robustness(console, curves, output)


def print_robustness(console: Console, curves: Robustness, output: Path) -> None:
    """Print the curves, and where their files are."""
    from istvt.report.evaluation_files import ROBUSTNESS
    from istvt.report.summary import robustness_table

    console.print(robustness_table(curves))
    print_lines(console, f"robustness: {output / ROBUSTNESS}")


def _measure_explanations(
    options: Namespace, data: DataSettings, settings: FaithfulnessSettings, output: Path, console: Console
) -> None:
    """Measure deletion, insertion, where and when of every method, beside a center blob and a random order."""
    from istvt.explain.faithfulness.report import faithfulness_tables
    from istvt.report.evaluate_checkpoint import evaluate_checkpoint_explanations, render_report
    from istvt.report.evaluation_files import EXPLANATIONS

    slow = "every clip is explained by each method and scored again with pixels removed, which takes many times as long"
    print_lines(console, f"now the explanations: {slow}", style="dim")
    with progress_bar(console, "explaining clips") as update:
        measured, written = evaluate_checkpoint_explanations(
            options.checkpoint,
            data,
            output / EXPLANATIONS,
            settings,
            split=options.split,
            device=options.device,
            advance=update,
        )
    render_report(options.checkpoint, data, output)
    print_lines(console, faithfulness_tables([measured]), f"explanations: {', '.join(map(str, written.values()))}")
