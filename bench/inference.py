"""Seconds a clip on a processor: memory and its layout, folded batch norms, bfloat16, compilation, clips at once.

Each way takes turns with the plain one of its task, round after round on the same random clips, so that what else the
machine does meets both alike; each has a process of its own, because how memory is allocated is a process's. Seconds
are processor time of all threads: those on the clock, which a column of their own has, are also those of other
processes. A speed-up is the median over rounds of the plain way's processor time over its own, with the lowest and the
highest round. `first_call_s` is on the clock: of a compiled way it is the compilation. What this processor cannot do
is a record that says so.
"""

import argparse
import copy
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.common.record import NOT_MEASURED, Row, at_least_one
from bench.common.tasks import Task
from bench.training.steps import Case, Clips, training_step
from istvt.config import PRESETS, preset
from istvt.device import autocast, cpu_has_bfloat16, keep_freed_memory
from istvt.model.istvt import ISTVT

NO_BFLOAT16 = f"{NOT_MEASURED}: this processor does not multiply bfloat16 (AMX, AVX512-BF16)"


@dataclass(frozen=True)
class Way:
    """How clips are scored, or trained on.

    Attributes:
        task: "score" or "train".
        way: "plain" is PyTorch with its defaults; the others keep the memory of freed tensors, as `istvt` does on a
            CPU. "channels last" is that layout, in which `istvt train` trains; "folded" that with folded batch norms,
            as `istvt predict` scores; "compiled" that, by torch.compile.
        batch: clips at once.
        precision: of autocast.
    """

    task: str
    way: str
    batch: int
    precision: str = "float32"


WAYS = (
    Way("score", "plain", 4), Way("score", "plain", 1), Way("score", "folded", 1), Way("score", "folded", 4),
    Way("score", "channels last", 4), Way("score", "folded", 4, "bfloat16"), Way("score", "compiled", 4),
    Way("score", "compiled", 4, "bfloat16"), Way("train", "plain", 2), Way("train", "channels last", 2),
    Way("train", "channels last", 2, "bfloat16"),
)  # fmt: skip


def model_of(name: str) -> ISTVT:
    """Return the model of a preset, with random weights."""
    torch.manual_seed(0)
    return ISTVT(preset(name)).eval()


def prepared(way: Way, name: str) -> Callable[[], Tensor]:
    """Return the call that is timed; it returns probabilities of the clips, or the loss of a training step."""
    from istvt.inference.score import for_scoring  # its loader needs what a bare GPU machine lacks

    if way.way != "plain":
        keep_freed_memory(torch.device("cpu"))
    model = model_of(name)
    side = model.config.image_size
    clips = (
        2 * torch.rand(way.batch, model.config.frames, 3, side, side, generator=torch.Generator().manual_seed(0)) - 1
    )
    if way.task == "train":
        case = Case(name, "full", way.precision, "this project")
        layout = torch.contiguous_format if way.way == "plain" else torch.channels_last
        return training_step(case, Clips(clips, torch.arange(way.batch) % 2 * 1.0), "eager", layout)
    if way.way == "plain":
        model = copy.deepcopy(model)
        model.backbone.memory_format = torch.contiguous_format
    elif way.way != "channels last":
        model = for_scoring(model)
    if way.way == "compiled":
        model = copy.deepcopy(model)
        for part in (model.backbone, *model.blocks[:-1]):  # the last block computes one token
            part.compile(fullgraph=True, dynamic=False)

    @torch.inference_mode()
    def score() -> Tensor:
        with autocast(clips.device, getattr(torch, way.precision)):
            return model(clips).float().sigmoid()

    return score


class _Turn(NamedTuple):
    """What one call gave for the first clip, and its seconds of processor time and on the clock."""

    result: Tensor
    used_s: float
    clock_s: float


_prepared: Callable[[], Tensor]  # of a process that measures one way


def _prepare(way: Way, name: str, threads: int) -> None:
    global _prepared
    torch.set_num_threads(threads)
    _prepared = prepared(way, name)


def _call() -> _Turn:
    started, used = time.perf_counter(), time.process_time()
    result = _prepared()
    return _Turn(result.reshape(-1)[:1].clone(), time.process_time() - used, time.perf_counter() - started)


def _process(way: Way, name: str) -> ProcessPoolExecutor:
    spawned = multiprocessing.get_context("spawn")  # a fork would inherit this process's allocator
    return ProcessPoolExecutor(1, spawned, _prepare, (way, name, torch.get_num_threads()))


def measure(way: Way, plain: Way, name: str, rounds: int) -> Row:
    """Return seconds a clip of a way and its speed-up over `plain`, after `rounds` rounds of both."""
    if way.precision == "bfloat16" and not cpu_has_bfloat16():
        return {"note": NO_BFLOAT16}
    with ExitStack() as stack:
        own = {each: stack.enter_context(_process(each, name)) for each in dict.fromkeys((way, plain))}
        first = own[way].submit(_call).result()
        difference = (first.result - own[plain].submit(_call).result().result).abs().max().item()
        turns = {each: [] for each in own}
        for _ in range(rounds):
            for each, process in own.items():
                turns[each].append(process.submit(_call).result())
    used = {each: [turn.used_s / each.batch for turn in turns[each]] for each in own}
    clock = [turn.clock_s / way.batch for turn in turns[way]]
    ratios = [before / now for before, now in zip(used[plain], used[way], strict=True)]
    return {
        "seconds_per_clip": statistics.median(used[way]), "clock_seconds_per_clip": statistics.median(clock),
        "speed_up": statistics.median(ratios), "speed_up_low": min(ratios), "speed_up_high": max(ratios),
        "first_call_s": first.clock_s, "probability_differs_by": difference if way.task == "score" else None,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to score and how often."""
    parser.add_argument("--preset", choices=PRESETS, default="seed", help="the model (default seed, the paper's)")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="how often a way takes its turn (default 3)")
    parser.add_argument(
        "--batch", type=at_least_one, help="clips at once of every way (default: 1 or 4, 2 in training)"
    )
    parser.add_argument("--way", action="append", help="only this (repeatable): plain, folded, compiled, channels last")


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield each way; compilation last, as it takes minutes."""
    chosen = [way for way in WAYS if not arguments.way or way.way in arguments.way]
    if arguments.batch:
        chosen = list(dict.fromkeys(replace(way, batch=arguments.batch) for way in chosen))
    for way in sorted(chosen, key=lambda way: way.way == "compiled"):
        plain = next(other for other in WAYS if other.task == way.task)
        plain = replace(plain, batch=arguments.batch or plain.batch)
        row = asdict(way) | {"preset": arguments.preset, "rounds": arguments.rounds}
        yield Task("inference", row, partial(measure, way, plain, arguments.preset, arguments.rounds))
