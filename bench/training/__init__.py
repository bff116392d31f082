"""Clips a second, FLOP utilization and peak memory of a training step: this project against plain PyTorch.

Methods, each forward, backward, gradient clipping and AdamW on random clips that are on the device already:

- naive eager: the model in plain PyTorch, attention matrices stored (bench/training/baseline_model.py);
- eager SDPA: the same with PyTorch's fused attention over time and over space, fused optimizer;
- compiled SDPA: that under torch.compile;
- this project: `istvt.training.step.TrainingStep` of an accelerated `istvt.ISTVT`, as `istvt train` runs it, compiled;
- this project, CUDA graphs: the same, replayed, as `istvt train --training.execution=cuda_graphs` runs it.

Utilization counts 3 x 2 x the multiply-accumulates of istvt/model/flops.py a clip (padding not counted, every layer
over the whole grid), over the device's peak; "needed" counts only what the logit needs, without what
the last block leaves out. Real sizes need a GPU; on a CPU the preset `small` runs as a check that all of it works.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import asdict, astuple
from functools import partial
from pathlib import Path

import torch

from bench.common import timing
from bench.common.environment import require_gpu
from bench.common.record import NOT_MEASURED, Row, add_output, output_folder, write_table
from bench.common.table import Column, row_table
from bench.training import measurement
from bench.training.measurement import empty_row
from bench.training.steps import ATTENTIONS, BATCH, METHODS, PRECISIONS, ordered_cases
from istvt.config import PRESETS

# What runs on a CPU unless asked for otherwise: compiling for one takes minutes and says nothing of a GPU.
ON_CPU = ("this project", "naive eager", "eager SDPA")
STOPPED = f"{NOT_MEASURED}: the run was stopped before"
BROKEN = f"{NOT_MEASURED}: an earlier error broke the GPU's context"
_CASE = tuple(map(Column, ("preset", "attention", "precision", "method")))
COLUMNS = (
    *_CASE, Column("clips/s", "clips_per_second"), Column("step ms", "step_ms"), Column("TFLOP/s", "useful_tflops"),
    Column("MFU", "utilization_data_sheet", ".1%"), Column("MFU needed", "needed_data_sheet", ".1%"),
    Column("of measured peak", "utilization_measured_peak", ".1%"), Column("peak GB", "peak_bytes", unit=1e9),
    Column("reserved GB", "reserved_bytes", unit=1e9), Column("note"),
)  # fmt: skip
FAMILY_COLUMNS = (
    *_CASE, Column("family"), Column("us a step", "us_per_step", ".0f"), Column("share", form=".1%"),
    Column("calls", "calls_per_step", ".0f"),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to train and for how long."""
    parser.add_argument("--preset", action="append", choices=PRESETS, help="only this (repeatable; default by device)")
    parser.add_argument("--attention", action="append", choices=ATTENTIONS, help="only this one (repeatable)")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="only this one (repeatable)")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this one (repeatable)")
    parser.add_argument("--batch", type=int, default=None, help=f"clips a step (default {BATCH}; 2 on a CPU)")
    parser.add_argument("--execution", choices=("eager", "compile", "cuda_graphs"), help="of this project")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time of each record (default 2)")
    parser.add_argument("--budget", type=float, help="seconds after which no further record is begun")
    parser.add_argument("--trace", type=Path, help="folder for a chrome trace of each record's steps")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure and write row by row, so that a run that is stopped leaves what it had; 1 if no row was measured."""
    on_gpu = torch.cuda.is_available()
    presets = tuple(arguments.preset or (("seed", "published") if on_gpu else ("small",)))
    if set(presets) - {"small"}:
        require_gpu("training of the presets seed and published")
    batch = arguments.batch or (BATCH if on_gpu else 2)
    execution = arguments.execution or ("compile" if on_gpu else "eager")
    precisions = arguments.precision or (PRECISIONS if on_gpu else ("float32", "bfloat16"))
    methods = arguments.method or (METHODS if on_gpu else ON_CPU)
    chosen = list(ordered_cases(presets, precisions, methods, arguments.attention or ATTENTIONS))
    folder = output_folder(arguments.output, "training", arguments.commit)
    started = time.perf_counter()
    # All rows are there from the start: one that is never reached says so.
    rows: list[Row] = [empty_row(case, batch, STOPPED) for case in chosen]
    families: list[Row] = []
    write_table(folder, "training", rows)
    peaks = measurement.peak_rates()
    stop = ""
    for number, case in enumerate(chosen, 1):
        if arguments.budget and time.perf_counter() - started > arguments.budget:
            stop = stop or f"{NOT_MEASURED}: the time was used up"
        row, note = None, stop
        if not stop:
            trace = arguments.trace and arguments.trace / f"{'-'.join(astuple(case)).replace(' ', '_')}.json"
            given = case, batch, execution, arguments.seconds, peaks, trace
            row, note = timing.attempt(partial(measurement.measure, *given))
            with contextlib.suppress(Exception):  # it asks the GPU, which may have been broken
                torch._dynamo.reset()
            stop = "" if timing.let_go() else BROKEN
        rows[number - 1] = row or empty_row(case, batch, note)
        families += [asdict(case) | {"batch": batch} | part for part in rows[number - 1].pop("families", [])]
        write_table(folder, "training", rows)
        write_table(folder, "training_families", families)
        print(f"{number}/{len(chosen)} {case} {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print(row_table(COLUMNS, rows), end="\n\n")
    print(row_table(FAMILY_COLUMNS, families))
    print(f"\n{folder}")
    return 0 if any(row["step_ms"] for row in rows) else 1
