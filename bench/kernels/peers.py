"""Other people's attention, called as a user of theirs would: what a fused kernel has to beat.

Each peer takes queries, keys and values `[sequences, heads, length, D]` and returns the same shape. A peer that is
missing or refuses a shape says why; the reason goes into the table in place of a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.common.launch import padded_head_dim

Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def naive_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Two products and a softmax, the matrix stored: what the authors' code does; `scale` is 1 / sqrt(D) or given."""
    return torch.softmax(q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale), -1) @ v


def _sdpa(backend: SDPBackend) -> Attention:
    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(q, k, v, scale=scale)

    return attend


COMPILED_FOR_A_SHAPE = "not measured: compiled for each shape anew; measured at the paper's"


@cache
def _compiled_flex(length: int, head_dim: int) -> Callable[..., Tensor]:
    """One compilation a shape, each with a count of its own: past its limit, torch.compile runs eagerly instead."""
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
    "sdpa flash": _sdpa(SDPBackend.FLASH_ATTENTION),
    "sdpa efficient": _sdpa(SDPBackend.EFFICIENT_ATTENTION),
    "sdpa cudnn": _sdpa(SDPBackend.CUDNN_ATTENTION),
    "sdpa math": _sdpa(SDPBackend.MATH),
    "flex compiled": _flex,
    "xformers": _xformers,
}


def over_frames(attend: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """A peer's attention over the frames of each position: `[B, F, S, N, D]` in and out, by the copies it needs."""
    clips, frames, positions, heads, head_dim = q.shape
    q, k, v = (x.permute(0, 2, 3, 1, 4).reshape(-1, heads, frames, head_dim) for x in (q, k, v))
    out = attend(q, k, v, scale).reshape(clips, positions, heads, frames, head_dim)
    return out.permute(0, 3, 1, 2, 4).contiguous()


def over_positions(attend: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """A peer's attention over the positions of each frame row: `[B, F, S, N, D]` in and out."""
    sequences = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))
    return attend(*sequences, scale).transpose(1, 2).unflatten(0, q.shape[:2]).contiguous()


def padded_by_copies(attend: Attention) -> Attention:
    """A peer that is given heads of the next multiple of 16, which copies make, and whose output is cut."""

    def padded(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        head_dim = q.shape[-1]
        q, k, v = (functional.pad(x, (0, padded_head_dim(head_dim) - head_dim)) for x in (q, k, v))
        return attend(q, k, v, scale)[..., :head_dim]

    return padded


def reason(function: Callable[[], object]) -> str | None:
    """Why `function` cannot run, in one line; None when it can. Only refusals count, an interrupt goes through."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function()
            torch.cuda.synchronize()
        except Exception as error:
            if isinstance(error, ImportError):
                return "not installed"
            if isinstance(error, torch.OutOfMemoryError):
                return "out of memory"
            said = [str(warning.message) for warning in caught if "because" in str(warning.message)]
            said = said or [f"{type(error).__name__}: {error}"]
            return " ".join(said[-1].split())[:200]
    return None
