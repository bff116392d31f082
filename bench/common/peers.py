"""Peers of the attention kernels, and the records of a contender: time, memory, and how far from the least of both.

A peer takes queries, keys and values `[sequences, heads, length, D]` and returns the same shape, called as its own
users call it. One that is missing or refuses a shape is a record whose note says why.
"""

import argparse
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.common import timing
from bench.common.record import Row
from bench.common.tasks import Task
from kernels.common.launch import padded_head_dim

Attention = Callable[..., Tensor]  # of q, k, v and, by itself or by name, the scale
Calls = Mapping[str, Callable[[], object]]

HEADS, POSITIONS = 8, 362
PAPER = 8, 7, POSITIONS  # clips, frame rows, positions
OURS, FLEX = "ours", "flex compiled"
DEVICE = "cuda"  # of the tensors; the tests measure on a CPU


def naive_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Return `softmax(scale q k^T) v` with the matrix stored, as the authors' code does; `scale` None is D^-0.5."""
    return torch.softmax(q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale), -1) @ v


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, *, backend: SDPBackend) -> Tensor:
    with sdpa_kernel(backend), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return functional.scaled_dot_product_attention(q, k, v, scale=scale)
        except RuntimeError as error:  # says only that no kernel is there; why not is a warning
            because = [str(warning.message) for warning in caught if "because" in str(warning.message)]
            raise RuntimeError((because or [str(error)])[-1]) from error


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


def over_frames(attend: Attention, q: Tensor, k: Tensor, v: Tensor, **scale: float) -> Tensor:
    """Attend over the frames of each position: `[B, F, S, N, D]` in and out, by the copies that a peer needs."""
    clips, frames, positions, heads, head_dim = q.shape
    q, k, v = (x.permute(0, 2, 3, 1, 4).reshape(-1, heads, frames, head_dim) for x in (q, k, v))
    out = attend(q, k, v, **scale).reshape(clips, positions, heads, frames, head_dim)
    return out.permute(0, 3, 1, 2, 4).contiguous()


def over_positions(attend: Attention, q: Tensor, k: Tensor, v: Tensor, **scale: float) -> Tensor:
    """Attend over the positions of each frame row: `[B, F, S, N, D]` in and out."""
    sequences = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))
    return attend(*sequences, **scale).transpose(1, 2).unflatten(0, q.shape[:2]).contiguous()


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

    def calls(self, size: tuple[int, int, int], head_dim: int, dtype: torch.dtype) -> Calls:
        """Return a call a pass at `size` (clips B, frame rows F, positions S) and the unpadded `head_dim`."""
        return calls(partial(self.function, scale=head_dim**-0.5), (*size, 3, HEADS, self.width), dtype)


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


def calls(function: Callable[[Tensor], Tensor], shape: Sequence[int], dtype: torch.dtype, device: str = "") -> Calls:
    """Return a call a pass of a function of random packed q, k and v, of `shape` [B, F, S, 3, N, D]."""
    device = device or DEVICE
    generator = torch.Generator(device).manual_seed(0)
    qkv = torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_()
    return passes(function, (qkv,), torch.randn(qkv[:, :, :, 0].shape, generator=generator, device=device).to(dtype))


def described(contender: str, dtype: torch.dtype, **sizes: int | str) -> Row:
    """Return what is known of a record before it is measured."""
    return {"contender": contender, "dtype": str(dtype).removeprefix("torch."), **sizes}


def speed_tasks(
    table: str, row: Row, make: Callable[[], Calls], milliseconds: int, *,
    moved: Mapping[str, float] | None = None, operations: Mapping[str, float] | None = None,
) -> Iterator[Task]:  # fmt: skip
    """Yield the time and peak memory of each pass of the contender that `row` names, of the calls that `make` gives.

    `moved` are the bytes of each pass, whose time at the rate of a copy is its floor; `operations` those on numbers.
    """

    def measured(which: str) -> Row:
        found = timing.time_and_memory(make()[which], milliseconds)
        if moved:
            floor = 1e6 * moved[which] / timing.copy_bandwidth()
            found |= {"floor_microseconds": floor, "share_of_floor": floor / found["microseconds"]}
        if operations:
            found["teraflops"] = 1e-6 * operations[which] / found["microseconds"]
        return found

    for which in moved or operations or ():
        prepare = (lambda which=which: make()[which]()) if row["contender"].startswith(OURS) else None
        yield Task(table, row | {"pass": which}, partial(measured, which), prepare)


def ordered(tasks: Iterable[Task]) -> list[Task]:
    """Return this project's first, then peers, of which one may break the GPU's context, last what compiles a shape."""
    ranks = {OURS: 0, FLEX: 2}
    return sorted(tasks, key=lambda task: ranks.get(task.row.get("contender", OURS).partition(",")[0], 1))


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add the dtype of queries, keys and values."""
    choices = {"choices": ("bfloat16", "float16", "float32"), "default": "bfloat16"}
    parser.add_argument("--dtype", **choices, help="of queries, keys and values (default: %(default)s)")
