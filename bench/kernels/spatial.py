"""Time spatial attention against its peers, and what it costs to hand out attention and its gradient. Needs a GPU.

Every contender does one task: from the packed projection [B, F, S, 3, N, D] to the output [B, F, S, N, D] that the
output projection reads, and back to the gradient of the packed projection. TFLOP/s count 2 products forward and 5
backward at the unpadded head dimension. Of head dimension 91 ours is padded to 96 at the projection; peers come as they
are, with the padding copies that they need, and on our padded projection. What refuses is a record with the reason.

Writes spatial.csv, spatial_capture.csv (attention and its gradient over their byte floor) and spatial_memory.csv (peak
memory against S: as S without a capture, as S squared with one). Without a GPU the last alone: the same kernels run in
Triton's interpreter, and what is counted is every tensor that PyTorch allocates meanwhile, the ones that a GPU would be
asked for.
"""

import argparse
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from bench.common import peers, timing
from bench.common.environment import gpu_or_interpreter
from bench.common.peers import FLEX, HEADS, OURS, POSITIONS, Contender, over_positions
from bench.common.record import Row
from bench.common.tasks import Task
from bench.scaling import fit_exponent
from kernels import AttentionCapture, spatial_attention, spatial_attention_packed
from kernels.common.launch import padded_head_dim

MILLISECONDS = 60
add_arguments = peers.add_dtype


class Shape(NamedTuple):
    """`rows` frame rows of `positions` each; joint attention is one row that holds every token of a clip."""

    attention: str
    clips: int
    rows: int
    positions: int


PAPER = Shape("spatial", 8, 7, POSITIONS)
PAPER_SHAPES = [PAPER, PAPER._replace(clips=1)]
OTHER_SHAPES = [
    PAPER._replace(clips=32), *(PAPER._replace(positions=cells + 1) for cells in (49, 100, 196, 576, 1024)),
    Shape("spatial", 2, 7, 2305), Shape("spatial", 1, 7, 4097), Shape("joint", 1, 1, 7 * POSITIONS),
]  # fmt: skip
CAPTURE_SHAPES = [PAPER, *(Shape("spatial", 1, 7, cells + 1) for cells in (49, 196, 361, 1024, 2304))]
HEAD_DIMS = (64, 91, 128)
CAPTURE_HEAD_DIMS = (64, 91)
# Products of S x S x D that a pass cannot do without.
PRODUCTS = {"forward": 2, "backward": 5, "both": 7}
WITHOUT, WITH = "without a capture", "with a capture"
# Queries, keys and values `[1, rows, S, heads, head_dim]` for each S of `positions` whose memory is measured. A program
# of the interpreter takes tens of milliseconds.
IN_THE_INTERPRETER = {"positions": (64, 128, 256, 512, 1024), "rows": 1, "heads": 1, "head_dim": 16, "dtype": "float16"}
_POSITIONS = (65, 129, 257, 513, 1025, 2049, 4097)
ON_GPU = {"positions": _POSITIONS, "rows": 7, "heads": 8, "head_dim": 64, "dtype": "bfloat16"}


def contenders(head_dim: int) -> list[Contender]:
    """Return what is compared at this head dimension."""

    def peer(name: str, width: int, attend: peers.Attention) -> Contender:
        return Contender(name, width, lambda qkv, scale: over_positions(attend, *qkv.unbind(3), scale=scale))

    padded = padded_head_dim(head_dim)
    ours = Contender(OURS, padded, spatial_attention_packed)
    others = [peer(name, head_dim, attend) for name, attend in peers.PEERS.items()]
    if padded == head_dim:
        return [ours, *others]
    for name in ("sdpa flash", "sdpa efficient", "sdpa cudnn", "xformers"):
        attend = peers.PEERS[name]
        others.append(peer(f"{name}, pads by copies", head_dim, partial(peers.padded_by_copies, attend)))
        others.append(peer(f"{name}, our padded projection", padded, attend))
    return [ours, ours._replace(name=f"{OURS}, unpadded", width=head_dim), *others]


def attention(shapes: Sequence[Shape], dtype: torch.dtype, milliseconds: int) -> Iterator[Task]:
    """Yield all contenders at `shapes`; at the paper's in float32 too, which peers compute without tensor cores."""
    cases = list(itertools.product(shapes, HEAD_DIMS, (dtype,)))
    cases += itertools.product([PAPER] if PAPER in shapes else [], (64, 91), (torch.float32,))
    for shape, head_dim, working in dict.fromkeys(cases):
        product = 2 * shape.clips * shape.rows * HEADS * shape.positions**2 * head_dim
        operations = {which: count * product for which, count in PRODUCTS.items()}
        for one in contenders(head_dim):
            row = peers.described(one.name, working, **shape._asdict(), heads=HEADS, head_dim=head_dim)
            make = partial(one.calls, shape[1:], head_dim, working)
            if one.name != FLEX or (shape == PAPER and working.itemsize == 2):
                yield from peers.speed_tasks("spatial", row, make, milliseconds, operations=operations)


def capture(shape: Shape, head_dim: int, dtype: torch.dtype, milliseconds: int) -> Iterator[Task]:
    """Yield what handing out attention (forward) and its gradient (backward) adds, over the time to write them."""
    emitted = 4 * shape.clips * shape.rows * HEADS * shape.positions**2

    def measured(which: str) -> Row:
        qkv = torch.randn(*shape[1:], 3, HEADS, padded_head_dim(head_dim), device=peers.DEVICE).to(dtype)
        leaves = [x.requires_grad_() for x in qkv.unbind(3)]
        grad_out, times = torch.randn_like(leaves[0]).contiguous(), []
        for kind in (AttentionCapture, lambda: None):
            attend = lambda *qkv, kind=kind: spatial_attention(*qkv, capture=kind())  # noqa: E731
            call = peers.passes(attend, leaves, grad_out)[which]
            times.append(timing.time_call(call, milliseconds=milliseconds)["microseconds"])
        captured, plain = times
        floor = 1e6 * emitted / timing.write_bandwidth()
        return {
            "microseconds": plain, "microseconds_with_capture": captured, "floor_microseconds": floor,
            "added_over_floor": (captured - plain) / floor,
        }  # fmt: skip

    for which in ("forward", "backward"):
        row = peers.described(OURS, dtype, **shape._asdict(), heads=HEADS, head_dim=head_dim)
        yield Task("spatial_capture", row | {"pass": which, "emitted_bytes": emitted}, partial(measured, which))


def memory(sizes: Mapping[str, Any], device: str) -> Iterator[Task]:
    """Yield the peak of a forward and a backward pass beyond their inputs, without a capture and with one."""

    def measured(positions: int, kind: str) -> Row:
        shape = (4, 1, sizes["rows"], positions, sizes["heads"], sizes["head_dim"])
        *leaves, grad_out = torch.randn(shape).to(device, getattr(torch, sizes["dtype"])).unbind(0)
        leaves = [x.requires_grad_() for x in leaves]

        def call() -> object:
            capture = AttentionCapture() if kind == WITH else None
            return torch.autograd.grad(spatial_attention(*leaves, capture=capture), leaves, grad_out), capture

        return {"peak_bytes": timing.peak_bytes(call, device)}

    for positions, kind in itertools.product(sizes["positions"], (WITHOUT, WITH)):
        row = {**sizes, "positions": positions, "capture": kind, "clips": 1}
        yield Task("spatial_memory", row, partial(measured, positions, kind))


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield the records of the paper's shapes, then those of others; ours first of each."""
    if gpu_or_interpreter() == "cpu":
        print("PyTorch finds no NVIDIA GPU here: what the kernels have PyTorch allocate is measured, and no time.")
        yield from memory(IN_THE_INTERPRETER, "cpu")
        return
    given = getattr(torch, arguments.dtype), arguments.milliseconds
    captures = (capture(*case, *given) for case in itertools.product(CAPTURE_SHAPES, CAPTURE_HEAD_DIMS))
    at_paper = attention(PAPER_SHAPES, *given), *captures, memory(ON_GPU, "cuda")
    yield from peers.ordered(itertools.chain.from_iterable(at_paper))
    yield from peers.ordered(attention(OTHER_SHAPES, *given))


def exponents(rows: Iterable[Mapping[str, Any]]) -> dict[str, Row]:
    """Fit the growth with S over the larger half of the sizes, without a capture and with one."""
    fitted = {}
    for capture in (WITHOUT, WITH):
        points = [row for row in rows if row["capture"] == capture and row.get("peak_bytes")]
        points = points[(len(points) - 1) // 2 :]
        peaks = [int(row["peak_bytes"]) for row in points]
        fitted[capture] = fit_exponent([int(row["positions"]) for row in points], peaks)
    return fitted
