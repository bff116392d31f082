"""Peers of the attention kernels, and the loop that times them and this project's kernels.

A peer takes queries, keys and values `[sequences, heads, length, D]` and returns the same shape, called as its own
users call it. One that is missing or refuses a shape is a record whose note says why.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.common import ahead, timing
from bench.common.record import Row, add_output
from bench.training.baseline_model import naive_attention
from kernels.common.launch import padded_head_dim

Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]
Calls = Mapping[str, Callable[[], object]]

HEADS, POSITIONS = 8, 362
OURS, FLEX = "ours", "flex compiled"
COMPILED_FOR_A_SHAPE = "not measured: compiled for each shape anew; measured at the paper's"
DEVICE = "cuda"  # of the tensors; the tests measure on a CPU


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, *, backend: SDPBackend) -> Tensor:
    with sdpa_kernel(backend):
        return functional.scaled_dot_product_attention(q, k, v, scale=scale)


@cache
def _compiled_flex(length: int, head_dim: int) -> Callable[..., Tensor]:
    """Compile once a shape, each with a count of its own: past its limit, torch.compile runs eagerly instead."""
    import torch._functorch.config
    from torch.nn.attention.flex_attention import flex_attention

    torch._functorch.config.donated_buffer = False  # else its backward pass refuses to run a second time
    torch.compiler.reset()
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _flex(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return _compiled_flex(*q.shape[-2:])(q, k, v, scale=scale)


def _xformers(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    from xformers.ops import memory_efficient_attention

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # theirs is [sequences, length, heads, D]
    return memory_efficient_attention(q, k, v, scale=scale).transpose(1, 2)


PEERS: dict[str, Attention] = {
    "naive": naive_attention,
    "sdpa flash": partial(_sdpa, backend=SDPBackend.FLASH_ATTENTION),
    "sdpa efficient": partial(_sdpa, backend=SDPBackend.EFFICIENT_ATTENTION),
    "sdpa cudnn": partial(_sdpa, backend=SDPBackend.CUDNN_ATTENTION),
    "sdpa math": partial(_sdpa, backend=SDPBackend.MATH),
    FLEX: _flex,
    "xformers": _xformers,
}


def over_frames(attend: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attend over the frames of each position: `[B, F, S, N, D]` in and out, by the copies that a peer needs."""
    clips, frames, positions, heads, head_dim = q.shape
    q, k, v = (x.permute(0, 2, 3, 1, 4).reshape(-1, heads, frames, head_dim) for x in (q, k, v))
    out = attend(q, k, v, scale).reshape(clips, positions, heads, frames, head_dim)
    return out.permute(0, 3, 1, 2, 4).contiguous()


def over_positions(attend: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attend over the positions of each frame row: `[B, F, S, N, D]` in and out."""
    sequences = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))
    return attend(*sequences, scale).transpose(1, 2).unflatten(0, q.shape[:2]).contiguous()


def padded_by_copies(attend: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attend with heads padded to the next multiple of 16 by copies, and cut the output."""
    head_dim = q.shape[-1]
    q, k, v = (functional.pad(x, (0, padded_head_dim(head_dim) - head_dim)) for x in (q, k, v))
    return attend(q, k, v, scale)[..., :head_dim]


class Contender(NamedTuple):
    """One way from a packed projection `[B, F, S, 3, N, width]` and a scale to the output `[B, F, S, N, width]`."""

    name: str
    width: int
    function: Callable[[Tensor, float], Tensor]


class Task(NamedTuple):
    """One contender at one shape; `columns`, `floors` and `operations` are those of `measure`."""

    contender: Contender
    size: tuple[int, int, int]  # clips B, frame rows F, positions S
    head_dim: int  # without padding
    dtype: torch.dtype
    columns: Row
    at_paper: bool  # whether what compiles for each shape is compiled for this one
    floors: Mapping[str, float] | None = None
    operations: Mapping[str, int] | None = None

    @property
    def rank(self) -> int:
        """Order: 0 ours, 1 peers, of which one may break the GPU's context, 2 compiled a shape, 3 not worth that."""
        if self.contender.name == FLEX:
            return 2 if self.at_paper else 3
        return 0 if self.contender.name.startswith(OURS) else 1

    def calls(self) -> Calls:
        """Return a call a pass, on random tensors of the device."""
        torch.manual_seed(0)
        qkv = torch.randn(*self.size, 3, HEADS, self.contender.width, device=DEVICE).to(self.dtype).requires_grad_()
        function = partial(self.contender.function, scale=self.head_dim**-0.5)
        return passes(function, (qkv,), torch.randn_like(qkv[:, :, :, 0]))

    def measure(self, milliseconds: int) -> Iterator[Row]:
        """Yield a record a pass."""
        if self.rank == 3:
            yield self.columns | {"pass": "all", "note": COMPILED_FOR_A_SHAPE}
            return
        yield from measure(self.columns, self.calls(), milliseconds, floors=self.floors, operations=self.operations)


def passes(function: Callable[..., Tensor], leaves: Sequence[Tensor], grad_out: Tensor) -> Calls:
    """Return calls of the forward pass, of the backward pass alone (its graph is kept) and of both."""

    @cache
    def out() -> Tensor:
        return function(*leaves)

    return {
        "forward": lambda: function(*(x.detach() for x in leaves)),
        "backward": lambda: torch.autograd.grad(out(), leaves, grad_out, retain_graph=True),
        "both": lambda: torch.autograd.grad(function(*leaves), leaves, grad_out),
    }


def measure(
    columns: Row, calls: Calls, milliseconds: int, *,
    floors: Mapping[str, float] | None = None, operations: Mapping[str, int] | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Yield a record a pass: its time, and with `operations` its TFLOP/s and peak memory; or why it cannot run.

    Args:
        columns: what the records say of what is measured.
        calls: by pass.
        milliseconds: measuring time of each pass.
        floors: microseconds that the bytes of each pass take.
        operations: floating-point operations of each pass that cannot be done without.
    """
    for which, call in calls.items():
        row = columns | {"pass": which}
        if refused := reason(call):
            yield row | {"note": refused}
            continue
        spent = timing.time_call(call, milliseconds=milliseconds)
        row |= {"microseconds": spent.median, "p20": spent.low, "p80": spent.high}
        if floors:
            row |= {"floor_microseconds": floors[which], "share_of_floor": floors[which] / spent.median}
        if operations:
            row |= {"teraflops": 1e-6 * operations[which] / spent.median, "peak_bytes": timing.peak_bytes(call)}
        yield row


def measure_tasks(tasks: Sequence[Task], milliseconds: int, after_ours: Callable[[], None]) -> Iterator[Row]:
    """Compile this project's kernels, then yield the records of `tasks` by rank; `after_ours` runs before the peers."""
    started = time.perf_counter()
    count = ahead.compile_ahead(task.calls()["both"] for task in tasks if task.rank == 0)
    print(f"{count} kernels compiled in {time.perf_counter() - started:.0f} s", flush=True)
    for rank in range(4):
        for task in tasks:
            if task.rank == rank:
                yield from task.measure(milliseconds)
        if rank == 0:
            after_ours()


def reason(function: Callable[[], object]) -> str | None:
    """Return why `function` cannot run, in one line; None when it can. An interrupt goes through."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        except ImportError:
            return "not installed"
        except torch.OutOfMemoryError:
            return "out of memory"
        except Exception as error:
            because = [str(warning.message) for warning in caught if "because" in str(warning.message)]
            return " ".join((because or [f"{type(error).__name__}: {error}"])[-1].split())[:200]
    return None


def add_speed_arguments(parser: argparse.ArgumentParser, quick: str) -> None:
    """Add the options that the commands of spatial and temporal attention share."""
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--milliseconds", type=int, default=60, help="time spent on each measurement")
    parser.add_argument("--tune", action="store_true", help="time candidate launch configs and print the best rows")
    add_output(parser)
