"""Clips a second, FLOP utilisation and peak memory of a training step: this project against what one would write.

Methods, each forward, backward, gradient clipping and AdamW on random clips that are on the device already:

- naive eager: the model in plain PyTorch, attention matrices stored (bench/baseline_model.py);
- eager SDPA: the same with PyTorch's fused attention over time and over space, fused optimizer;
- compiled SDPA: that under torch.compile;
- this project: `istvt.step.TrainingStep` of an accelerated `istvt.ISTVT`, as `istvt train` runs it, compiled;
- this project, CUDA graphs: the same, replayed, as `istvt train --training.execution=cuda_graphs` runs it.

Utilisation counts 3 x 2 x the multiply-accumulates of istvt/cost.py a clip (padding not counted, every layer over the
whole grid), over the device's peak; "needed" counts only what the logit needs: without what the last block leaves out.
Real sizes need a GPU; on a CPU the preset `small` runs as a check that all of it works.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench import timing
from bench.record import NOT_MEASURED, Row, add_output, failure, output_folder, write_table
from bench.table import format_table
from istvt.config import ISTVTConfig, preset
from istvt.cost import total_cost
from istvt.precision import allow_tf32, autocast

GRAPHS = "this project, CUDA graphs"
PROJECT = ("this project", GRAPHS)
METHODS = (*PROJECT, "naive eager", "compiled SDPA", "eager SDPA")
PRECISIONS = ("bfloat16", "tf32", "float32")
ATTENTIONS = {"full": "temporal_first", "spatial_only": "spatial_only"}
# What runs on a CPU unless asked for otherwise: compiling for one takes minutes and says nothing of a GPU.
ON_CPU = ("this project", "naive eager", "eager SDPA")
BATCH = 8
STOPPED = f"{NOT_MEASURED}: the run was stopped before"
BROKEN = f"{NOT_MEASURED}: an earlier error broke the GPU's context"

# Dense peak of the data sheets, FLOP/s (NVIDIA A100, H100 SXM and H200 SXM data sheets; half of "with sparsity").
DATA_SHEET = {
    "A100": {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12},
    "H100 80GB HBM3": {"bfloat16": 989.4e12, "tf32": 494.7e12, "float32": 66.9e12},
    "H200": {"bfloat16": 989.4e12, "tf32": 494.7e12, "float32": 66.9e12},
}


@dataclass(frozen=True)
class Case:
    """One row: what is trained, how, in which precision."""

    preset: str
    attention: str
    precision: str
    method: str

    @property
    def config(self) -> ISTVTConfig:
        """The model's configuration."""
        return replace(preset(self.preset), attention=ATTENTIONS[self.attention])


def cases(
    presets: tuple[str, ...], precisions: tuple[str, ...], methods: tuple[str, ...], attentions: tuple[str, ...]
) -> Iterator[Case]:
    """All combinations, those that decide the project's promises first: compiling takes most of a short visit."""
    ranks = {"this project": 0, "naive eager": 1, GRAPHS: 1.5, "compiled SDPA": 3, "eager SDPA": 4}
    ranks |= {"full": 0, "spatial_only": 2}
    pairs = sorted(itertools.product(attentions, methods), key=lambda pair: sum(ranks[name] for name in pair))
    for precision, name in itertools.product(precisions, presets):
        yield from (Case(name, attention, precision, method) for attention, method in pairs)


def useful_flops(config: ISTVTConfig) -> int:
    """Of one clip's forward and backward pass, by istvt/cost.py: twice the multiply-accumulates, three times."""
    cost = total_cost(config)
    return 3 * 2 * (cost.layer_macs + cost.attention_macs)


def needed_flops(config: ISTVTConfig) -> int:
    """The same without what the last block of `temporal_first` computes for tokens that nobody reads."""
    if config.attention != "temporal_first":
        return useful_flops(config)
    rows, positions = config.frame_rows, config.positions
    inner, tokens = config.heads * config.resolved_head_dim, config.frame_rows * config.positions
    projection = config.dim * inner
    whole = tokens * (8 * projection + 2 * config.dim * config.mlp_dim)
    whole += 2 * inner * (positions * rows**2 + rows * positions**2)
    # Time: keys and values of all tokens, queries and output of row 0. Space: inside row 0, one query. One MLP token.
    needed = 2 * tokens * projection + 2 * positions * projection + 2 * inner * positions * rows
    needed += 2 * positions * projection + 2 * projection + 2 * inner * positions
    needed += 2 * config.dim * config.mlp_dim
    return useful_flops(config) - 3 * 2 * (whole - needed)


@dataclass(frozen=True)
class Clips:
    """What a loader would give, made once and on the device."""

    clips: torch.Tensor
    labels: torch.Tensor


def random_clips(config: ISTVTConfig, batch: int, device: torch.device) -> Clips:
    """Clips [B, T, 3, H_i, W_i] uniform in [-1, 1] and labels [B]."""
    generator = torch.Generator().manual_seed(0)
    side = config.image_size
    clips = 2 * torch.rand(batch, config.frames, 3, side, side, generator=generator) - 1
    return Clips(clips.to(device), (torch.arange(batch) % 2).float().to(device))


def training_step(case: Case, batch: Clips, execution: str) -> Callable[[], object]:
    """A function that trains one step by the case's method.

    Args:
        case: which.
        batch: the clips of every step.
        execution: of this project: "eager", "compile" or "cuda_graphs".
    """
    torch.manual_seed(0)
    # One shape a row: every method gets the fastest convolutions, as this project's own set-up asks for them.
    torch.backends.cudnn.benchmark = True
    device = batch.clips.device
    dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
    allow_tf32(case.precision == "tf32")
    if case.method in PROJECT:
        return _project_step(case, batch, dtype, "cuda_graphs" if case.method == GRAPHS else execution)

    from bench.baseline_model import BaselineModel

    model = BaselineModel(case.config, "naive" if case.method == "naive eager" else "sdpa").to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=case.method != "naive eager")
    forward = torch.compile(model) if case.method == "compiled SDPA" else model

    def step() -> torch.Tensor:
        with autocast(device, dtype):
            logits = forward(batch.clips)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), batch.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _project_step(case: Case, batch: Clips, dtype: torch.dtype, execution: str) -> Callable[[], object]:
    from istvt.acceleration import accelerate
    from istvt.distributed import Processes
    from istvt.model import ISTVT
    from istvt.optimization import build_optimizer
    from istvt.settings import TrainingSettings
    from istvt.step import TrainingStep

    settings = TrainingSettings(batch_size=len(batch.labels), execution=execution, tf32=case.precision == "tf32")
    model = ISTVT(case.config).to(batch.clips.device).train()
    accelerate(model, settings)
    step = TrainingStep(model, model, build_optimizer(model, settings), dtype, settings, Processes())

    def run() -> torch.Tensor:
        step(iter([batch]), 1, 1e-4)
        return step.counters[0]

    return run


def measure(case: Case, batch_size: int, execution: str, seconds: float, peaks: Row, trace: Path | None = None) -> Row:
    """Train some steps and return the row, with the profile's families under "families".

    Memory is the most of all steps, the first ones included: replaying CUDA graphs allocates nothing, so that what they
    use shows only when they are recorded.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    row = empty_row(case, batch_size)
    memory = _PeakMemory() if device.type == "cuda" else None
    batch = random_clips(case.config, batch_size, device)
    started = time.perf_counter()
    step = training_step(case, batch, execution)
    for _ in range(3):
        step()
    _wait(device)
    row["first_steps_s"] = time.perf_counter() - started
    per_step = _seconds_a_step(step, device, seconds)
    if memory:
        row["peak_bytes"], row["reserved_bytes"] = memory.allocated(), memory.reserved()
    rate = batch_size / per_step
    row |= {"step_ms": 1e3 * per_step, "clips_per_second": rate, "useful_tflops": rate * row["flops_per_clip"] / 1e12}
    for name, key in (("utilisation_data_sheet", "data_sheet"), ("utilisation_measured_peak", "measured")):
        if peak := peaks.get((key, case.precision)):
            row[name] = rate * row["flops_per_clip"] / peak
            row[name.replace("utilisation", "needed")] = rate * row["needed_flops_per_clip"] / peak
    try:
        row["families"] = _profile(step, trace)
    except Exception as error:  # the step is measured all the same
        row["note"] = failure(error).replace(NOT_MEASURED, "no profile")
    return row


class _PeakMemory:
    """The most memory since it was made, beyond what was held then."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    def allocated(self) -> int:
        """What tensors took."""
        return torch.cuda.max_memory_allocated() - self._before[0]

    def reserved(self) -> int:
        """What the GPU had to have: tensors, the pools that recorded graphs keep, and gaps between them."""
        return torch.cuda.max_memory_reserved() - self._before[1]


def empty_row(case: Case, batch_size: int, note: str = "") -> Row:
    """A row that nothing has been measured of yet."""
    return {
        "preset": case.preset, "attention": case.attention, "precision": case.precision, "method": case.method,
        "batch": batch_size, "step_ms": None, "clips_per_second": None, "useful_tflops": None,
        "utilisation_data_sheet": None, "needed_data_sheet": None,
        "utilisation_measured_peak": None, "needed_measured_peak": None, "peak_bytes": None,
        "reserved_bytes": None,
        "flops_per_clip": useful_flops(case.config), "needed_flops_per_clip": needed_flops(case.config),
        "first_steps_s": None, "note": note,
    }  # fmt: skip


def _profile(step: Callable[[], object], trace: Path | None) -> list:
    from bench.kernel_families import profile_steps

    return profile_steps(step, trace=trace)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _seconds_a_step(step: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Steps are enqueued as in training, and waited for only at the end of a round of them."""
    count = 2
    while True:
        _wait(device)
        started = time.perf_counter()
        for _ in range(count):
            step()
        _wait(device)
        spent = time.perf_counter() - started
        if spent >= seconds:
            return spent / count
        count = max(count + 1, min(10 * count, int(1.2 * count * seconds / spent)))


def peak_rates() -> Row:
    """Peaks by ("data_sheet" | "measured", precision), of the current GPU; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    from bench.ceilings import product_rate

    name = torch.cuda.get_device_name(0)
    sheet = next((peaks for key, peaks in DATA_SHEET.items() if key in name), {})
    peaks = {("data_sheet", precision): peak for precision, peak in sheet.items()}
    for precision in PRECISIONS:
        with contextlib.suppress(Exception):  # without it a cell stays empty, and the steps are measured all the same
            peaks["measured", precision] = product_rate(precision)
    return peaks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to train and for how long."""
    parser.add_argument("--preset", action="append", help="seed, published or small (repeatable; default by device)")
    parser.add_argument("--attention", action="append", choices=ATTENTIONS, help="only this one (repeatable)")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="only this one (repeatable)")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this one (repeatable)")
    parser.add_argument("--batch", type=int, default=None, help=f"clips a step (default {BATCH}; 2 on a CPU)")
    parser.add_argument("--execution", choices=("eager", "compile", "cuda_graphs"), help="of this project")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time of each row (default 2)")
    parser.add_argument("--budget", type=float, help="seconds after which no further row is begun")
    parser.add_argument("--trace", type=Path, help="folder for a chrome trace of each row's steps")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure and write row by row, so that a run that is stopped leaves what it had; 1 if no row was measured."""
    on_gpu = torch.cuda.is_available()
    presets = tuple(arguments.preset or (("seed", "published") if on_gpu else ("small",)))
    if not on_gpu and set(presets) - {"small"}:
        print("bench training measures the presets seed and published on a GPU, and PyTorch finds none here.")
        return 2
    batch = arguments.batch or (BATCH if on_gpu else 2)
    execution = arguments.execution or ("compile" if on_gpu else "eager")
    chosen = list(
        cases(
            presets,
            tuple(arguments.precision or (PRECISIONS if on_gpu else ("float32", "bfloat16"))),
            tuple(arguments.method or (METHODS if on_gpu else ON_CPU)),
            tuple(arguments.attention or ATTENTIONS),
        )
    )
    folder = output_folder(arguments.output, "training", arguments.commit)
    started = time.perf_counter()
    # All rows are there from the start: one that is never reached says so.
    rows: list[Row] = [empty_row(case, batch, STOPPED) for case in chosen]
    families: list[Row] = []
    write_table(folder, "training", rows)
    peaks = peak_rates()
    broken = ""
    for number, case in enumerate(chosen, 1):
        if broken or (arguments.budget and time.perf_counter() - started > arguments.budget):
            rows[number - 1] = empty_row(case, batch, broken or f"{NOT_MEASURED}: the time was used up")
        else:
            row, broken = _measure_safely(case, batch, execution, arguments, peaks)
            families += [_family_row(case, batch, part) for part in row.pop("families", [])]
            rows[number - 1] = row
        write_table(folder, "training", rows)
        write_table(folder, "training_families", families)
        print(f"{number}/{len(chosen)} {case} {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    _print(rows, families)
    print(f"\n{folder}")
    return 0 if any(row["step_ms"] for row in rows) else 1


def _measure_safely(
    case: Case, batch: int, execution: str, arguments: argparse.Namespace, peaks: Row
) -> tuple[Row, str]:
    """The row, and why no further row can be measured in this process (nothing, one hopes)."""
    trace = None
    if arguments.trace:
        name = "-".join((case.preset, case.attention, case.precision, case.method)).replace(" ", "_")
        trace = arguments.trace / f"{name}.json"
    try:
        row = measure(case, batch, execution, arguments.seconds, peaks, trace)
    except torch.OutOfMemoryError:
        row = empty_row(case, batch, f"{NOT_MEASURED}: more memory than this GPU has")
    except Exception as error:
        row = empty_row(case, batch, failure(error))
    with contextlib.suppress(Exception):  # it asks the GPU, which may have been broken
        torch._dynamo.reset()
    return row, "" if timing.let_go() else BROKEN


def _family_row(case: Case, batch: int, part) -> Row:
    return {
        "preset": case.preset, "attention": case.attention, "precision": case.precision, "method": case.method,
        "batch": batch, "family": part.family, "us_per_step": part.microseconds, "share": part.share,
        "calls_per_step": part.calls,
    }  # fmt: skip


def _print(rows: list[Row], families: list[Row]) -> None:
    def cell(value: object, form: str) -> str:
        return "" if value is None else format(value, form)

    header = (
        "preset", "attention", "precision", "method", "clips/s", "step ms", "TFLOP/s", "MFU", "MFU needed",
        "of measured peak", "peak GB", "reserved GB", "note",
    )  # fmt: skip
    body = [
        (
            row["preset"], row["attention"], row["precision"], row["method"], cell(row["clips_per_second"], ".2f"),
            cell(row["step_ms"], ".2f"), cell(row["useful_tflops"], ".2f"), cell(row["utilisation_data_sheet"], ".1%"),
            cell(row["needed_data_sheet"], ".1%"), cell(row["utilisation_measured_peak"], ".1%"),
            cell(row["peak_bytes"] and row["peak_bytes"] / 1e9, ".2f"),
            cell(row["reserved_bytes"] and row["reserved_bytes"] / 1e9, ".2f"), row["note"],
        )
        for row in rows
    ]  # fmt: skip
    print(format_table(header, body), end="\n\n")
    header = ("preset", "attention", "precision", "method", "family", "us a step", "share", "calls")
    body = [
        (
            *(row[key] for key in header[:5]),
            f"{row['us_per_step']:.0f}", f"{row['share']:.1%}", f"{row['calls_per_step']:.0f}",
        )
        for row in families
    ]  # fmt: skip
    print(format_table(header, body))
