"""`istvt merge`: the result of a job from its shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from dataloading.errors import InputError
from istvt.cli import PROBLEM_FOUND
from istvt.cli.console import print_lines, starting
from istvt.config import DetectorConfig

if TYPE_CHECKING:
    from dataloading.engines.journal import Header, Line
    from istvt.inference.calibration import Band


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    parser.add_argument("shards", type=Path, nargs="+", help="files of all shards of one job")
    parser.add_argument(
        "--output",
        "--out",
        type=Path,
        required=True,
        help="what the command writes: the --json file of predict, the directory of evaluate, the face index or the "
        "crop store of prepare",
    )
    parser.add_argument("--max-error", type=float | None, default=None, help="of shards of predict: as of predict")
    parser.add_argument(
        "--checkpoint", type=Path | None, default=None, help="with --max-error: the model that the shards are of"
    )


def run(options: Namespace, console: Console) -> int:
    """Put the shards of predict, evaluate or prepare together: the result is that of one run, byte for byte.

    A batch system runs each shard on some machine:
      istvt predict VIDEOS --json scores.json --shard 1/16    ... to 16/16
      istvt merge scores.json.shard-* --output scores.json

    Shards of predict hold scores; --max-error withholds verdicts here, by the calibration of --checkpoint."""
    from dataloading.engines.journal import read_shards, typed

    if (options.max_error is None) != (options.checkpoint is None):
        raise InputError("--max-error and --checkpoint are given one without the other; expected both, or neither")
    header, lines = read_shards(options.shards)
    if options.max_error is not None and header.command != "predict":
        raise InputError(f"--max-error is given with shards of istvt {header.command}; expected those of predict")
    if header.command == "predict":
        with starting(console):
            from istvt.cli.predict import print_predictions, write_scores
            from istvt.inference.predict import Prediction
        if options.output.is_dir():
            raise InputError(f"--output {options.output}: is a directory; expected the JSON file of the scores")
        band = _band(options, header, console)
        predictions = [typed(line.result, Prediction, line.video) for line in lines]
        write_scores(options.output, predictions, band)
        print_lines(console, *(predictions[0].notes if predictions else ()), style="yellow")
        return print_predictions(console, predictions, band)
    if header.command == "evaluate":
        with starting(console):
            from istvt.cli.evaluate import print_evaluation
            from istvt.report.evaluate_checkpoint import merge_evaluation
        print_evaluation(console, merge_evaluation(header, lines, options.output))
        return 0
    if header.command == "robustness":
        with starting(console):
            from istvt.cli.evaluate import print_robustness
            from istvt.report.evaluate_robustness import merge_robustness
        print_robustness(console, merge_robustness(header, lines, options.output), options.output)
        return 0
    return _merge_preparation(header, lines, options.output, console)


def _band(options: Namespace, header: Header, console: Console) -> Band | None:
    """Return the scores without a verdict, if an error rate is asked for."""
    if options.max_error is None:
        return None
    from istvt.inference.calibration import band_of_checkpoint
    from istvt.model.checkpoint import read_info

    info = read_info(options.checkpoint)
    if info.checksum != header.settings.get("model"):
        raise InputError(f"--checkpoint {options.checkpoint}: is not the model that the shards are of")
    band = band_of_checkpoint(info, options.max_error, options.checkpoint)
    print_lines(console, str(band), style="dim")
    return band


def _merge_preparation(header: Header, lines: Sequence[Line], output: Path, console: Console) -> int:
    """Write the face index, or the crop store, of a data set."""
    with starting(console):
        from dataloading import read_dataset
        from dataloading.clips.cutting import Report, ShardSettings, format_report, index_place, merge_crops
        from dataloading.dataset import ORIGINAL, Video
        from dataloading.engines.journal import typed
        from dataloading.face_index import FaceIndex
        from dataloading.faces.prepare import format_preparation, merge_index, unusable
    if header.command == "prepare":
        if output.is_dir():
            raise InputError(f"--output {output}: is a directory; expected the face index, such as face_index.jsonl")
        index = merge_index(lines, output)
        videos = [Video(Path(line.video), 0, ORIGINAL, None, line.video, "") for line in lines]
        print_lines(console, format_preparation(index, videos))
        return PROBLEM_FOUND if unusable(index, videos) else 0
    settings = typed(header.settings, ShardSettings, "settings of the shards")
    source, options = settings.source, settings.crops
    if not source.keys() == {"root", "layout", "compression", "originals"} or source["root"] is None:
        raise InputError("settings of the shards: source: not what a data set is read by; make the shards again")
    dataset = read_dataset(**source)
    index = FaceIndex.read(index_place(dataset, output))
    finished = merge_crops(dataset, index, output, options, lines)
    print_lines(console, format_report(Report(finished, 0, {}), output, options))
    return PROBLEM_FOUND if unusable(index, dataset.videos) else 0
