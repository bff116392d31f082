"""Time relevance through attention against its stored form and its byte floor, and weigh a whole explanation.

Three operations over time and over space, in float32: `relevance` of q, k and v; the head-mean `map`; and the
`rollout step`, which multiplies a row by I + map. *stored* is the reference in plain PyTorch with attention, gradient
and relevance of every head in memory. The floor is the bytes that must move (7 tensors; 5 and the result) at the copy
bandwidth of the same run. TFLOP/s count the necessary products at the unpadded head dimension; ours pads 91 to 96.

Then explaining one clip is weighed against the published method's storage, and explaining a batch timed, which a report
sets beside the training step of `bench training`. Memory is the most that PyTorch's allocations held beyond what was
there before: the model's weights and the clip (or its tokens). From a clip every method computes the backbone too; the
published method, which keeps the autograd graph of the whole forward pass, keeps that of the backbone.

Writes relevance.csv, explanation_memory.csv and explanation_time.csv. Without a GPU only memory is measured, of the
preset seed: it takes minutes and 6 GB.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

import kernels
from bench.common import peers, timing
from bench.common.peers import HEADS, OURS, POSITIONS
from bench.common.record import Row
from bench.common.tasks import Task
from bench.kernels import chefer_baseline
from bench.training.measurement import seconds_a_call
from bench.training.steps import BATCH, random_clips
from istvt.config import PRESETS
from istvt.config import preset as preset_named
from istvt.device import allow_tf32
from istvt.explain import explain
from istvt.model.istvt import ISTVT
from kernels.common.launch import padded_head_dim
from kernels.relevance import reference

MILLISECONDS = 60
# Clips and frames; the paper's first.
SHAPES = [(8, 6), (1, 6), (32, 6), (8, 16)]
HEAD_DIMS = (64, 91)
KINDS = ("temporal", "spatial")
# Products of length x length x D that a pass cannot do without.
PRODUCTS = {"relevance": 6, "map": 3, "rollout step": 3}
# By pass: the end of the function's name, the tensors that it takes, and an option that the kernels share.
FUNCTIONS = {
    "relevance": ("relevance", ("q", "k", "v", "u"), {"stabilizer": 0.01}),
    "map": ("relevance_map", ("q", "k", "v", "u", "grad_out"), {"clamp": "after_mean"}),
    "rollout step": ("rollout_step", ("row", "q", "k", "v", "u", "grad_out"), {"clamp": "after_mean"}),
}
LIGHT = "this project"
REFERENCE = "published storage"
# From a model and a clip or its tokens to heatmaps, by what is stored on the way.
STORAGES: dict[str, Callable[..., Any]] = {
    LIGHT: explain,
    "this project, keep_maps": partial(explain, keep_maps=True),
    REFERENCE: chefer_baseline.explain,
    "published storage, parameter gradients too": partial(chefer_baseline.explain, parameter_gradients=True),
}
# Arithmetic of the explanation and precision of the training step that it is compared with.
PAIRS = (("float32", "float32"), ("float32", "bfloat16"), ("tf32", "tf32"), ("tf32", "bfloat16"))
Tensors = dict[str, torch.Tensor]


def call(
    source: ModuleType, kind: str, which: str, tensors: Tensors, scale: float, **changed: str
) -> tuple[torch.Tensor, ...] | torch.Tensor:
    """Call one of the six functions of `source` (`kernels`, or its reference) with what it takes of `tensors`."""
    name, taken, options = FUNCTIONS[which]
    return getattr(source, f"{kind}_{name}")(*(tensors[x] for x in taken), scale=scale, **(options | changed))


ours = partial(call, kernels)


def stored(*arguments, **options) -> tuple[torch.Tensor, ...] | torch.Tensor:
    """Call the reference with one tile for all queries, so that every matrix of every head is in memory."""
    with patch.object(reference, "TILE_ELEMENTS", sys.maxsize):
        return call(reference, *arguments, **options)


CONTENDERS: dict[str, Callable[..., object]] = {OURS: ours, "stored": stored}


def inputs(kind: str, shape: tuple[int, ...], width: int, device: torch.device | str) -> Tensors:
    """Return random q, k, v (views of one packed product), u, grad_out, of `shape` (B, F, S, N, D), and a row.

    From D to `width` there are zeros; the row is `[B, F, S]` for spatial attention and `[B, S, F]` for temporal.
    """
    options = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    clips, frames, positions, heads, head_dim = shape
    qkv = torch.randn(clips, frames, positions, 3, heads, head_dim, **options)
    u, grad_out = torch.randn(2, *shape, **options)
    row = torch.rand(clips, *((frames, positions) if kind == "spatial" else (positions, frames)), **options)
    if width > head_dim:
        qkv, u, grad_out = (torch.nn.functional.pad(x, (0, width - head_dim)) for x in (qkv, u, grad_out))
    return dict(zip("qkv", qkv.unbind(3), strict=True)) | {"u": u, "grad_out": grad_out, "row": row}


def needed(kind: str, clips: int, frames: int, head_dim: int, width: int) -> dict[str, dict[str, int]]:
    """Return by pass the bytes that must be `moved`, of heads padded to `width`, and the `operations` of its products.

    The products are those that a pass cannot do without, at the unpadded head dimension.
    """
    row, keys = clips * (frames + 1) * POSITIONS, POSITIONS if kind == "spatial" else frames + 1
    tensors = 4 * row * HEADS * width
    moved = {"relevance": 7 * tensors, "map": 5 * tensors + 4 * row * keys, "rollout step": 5 * tensors + 8 * row}
    operations = {which: 2 * count * row * HEADS * keys * head_dim for which, count in PRODUCTS.items()}
    return {"moved": moved, "operations": operations}


def operations(shapes: Sequence[tuple[int, int]], milliseconds: int) -> Iterator[Task]:
    """Yield all operations by both contenders at `shapes` of (clips, frames)."""

    def make(name: str, kind: str, shape: tuple[int, ...], width: int) -> peers.Calls:
        tensors, scale = inputs(kind, shape, width, peers.DEVICE), shape[-1] ** -0.5
        return {which: partial(CONTENDERS[name], kind, which, tensors, scale) for which in PRODUCTS}

    for (clips, frames), head_dim, kind, name in itertools.product(shapes, HEAD_DIMS, KINDS, CONTENDERS):
        width = padded_head_dim(head_dim) if name == OURS else head_dim
        sizes = {"clips": clips, "frames": frames, "positions": POSITIONS, "heads": HEADS, "head_dim": head_dim}
        row = peers.described(name, torch.float32, mode=kind, **sizes)
        given = partial(make, name, kind, (clips, frames + 1, POSITIONS, HEADS, head_dim), width), milliseconds
        yield from peers.speed_tasks("relevance", row, *given, **needed(kind, clips, frames, head_dim, width))


def explanation_memory(preset: str, device: torch.device) -> Iterator[Task]:
    """Yield peak memory of explaining one clip with random weights, for each storage, from the clip and its tokens."""
    light: dict[str, int] = {}

    def measured(start: str, storage: str) -> Row:
        call = partial(STORAGES[storage], _model(preset, device), **_starts(preset, device)[start])
        peak = timing.peak_bytes(call, device.type)
        if storage == LIGHT:
            light[start] = peak
        return {"peak_bytes": peak, "over_light": peak / light[start] if start in light else None}

    for start in ("clip", "tokens"):
        for storage in STORAGES:
            row = {"preset": preset, "storage": storage, "from": start, "clips": 1, "dtype": "float32"}
            row["head_dim"] = preset_named(preset).resolved_head_dim
            yield Task("explanation_memory", row, partial(measured, start, storage))


def explanation_time(preset: str, clips: int, device: torch.device, milliseconds: int) -> Iterator[Task]:
    """Yield the time of explaining a batch, in each arithmetic."""

    def measured(arithmetic: str) -> Row:
        allow_tf32(arithmetic == "tf32")
        try:
            batch = random_clips(preset_named(preset), clips, device)
            call = partial(explain, _model(preset, device), batch.clips)
            return {"explain_ms": 1e3 * seconds_a_call(call, 1e-3 * milliseconds)}
        finally:
            allow_tf32(False)

    for arithmetic in dict(PAIRS):
        row = {"preset": preset, "clips": clips, "arithmetic": arithmetic}
        yield Task("explanation_time", row, partial(measured, arithmetic))


@lru_cache(maxsize=1)
def _model(preset: str, device: torch.device) -> ISTVT:
    torch.manual_seed(0)
    return ISTVT(preset_named(preset)).to(device).eval()


@lru_cache(maxsize=1)
def _starts(preset: str, device: torch.device) -> dict[str, dict[str, torch.Tensor]]:
    """Return what `explain` is given, by where it starts."""
    clip = random_clips(preset_named(preset), 1, device).clips
    with torch.no_grad():
        return {"clip": {"clips": clip}, "tokens": {"tokens": _model(preset, device).tokenize(clip)}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is explained."""
    parser.add_argument("--preset", action="append", choices=PRESETS, help="only this (repeatable; default by device)")


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield the operations at the paper's shape, explanations, and the operations at other shapes."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    presets = arguments.preset or (["seed", "published"] if on_gpu else ["seed"])
    if on_gpu:
        yield from operations(SHAPES[:1], arguments.milliseconds)
    else:
        print("PyTorch finds no NVIDIA GPU here: what an explanation stores is measured, and no time.")
    for preset in presets:
        yield from explanation_memory(preset, device)
        if on_gpu:
            yield from explanation_time(preset, BATCH, device, arguments.milliseconds)
    if on_gpu:
        yield from operations(SHAPES[1:], arguments.milliseconds)
