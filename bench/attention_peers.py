"""Other people's attention, called as a user of theirs would: what a fused kernel has to beat.

Each peer takes queries, keys and values ``[sequences, heads, length, D]`` and returns the same shape. A peer that is
missing or refuses a shape says why; the reason goes into the table in place of a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Two products and a softmax, the matrix stored: what the authors' code does."""
    return torch.softmax(q @ k.transpose(-1, -2) * scale, -1) @ v


def _sdpa(backend: SDPBackend) -> Attention:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(q, k, v, scale=scale)

    return attend


@cache
def _compiled_flex(length: int, head_dim: int) -> Callable[..., torch.Tensor]:
    """One compilation a shape, each with a count of its own: past its limit, torch.compile runs eagerly instead."""
    import torch._functorch.config
    from torch.nn.attention.flex_attention import flex_attention

    torch._functorch.config.donated_buffer = False  # else its backward pass refuses to run a second time
    torch.compiler.reset()
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    return _compiled_flex(*q.shape[-2:])(q, k, v, scale=scale)


def _xformers(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    from xformers.ops import memory_efficient_attention

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # theirs is [sequences, length, heads, D]
    return memory_efficient_attention(q, k, v, scale=scale).transpose(1, 2)


PEERS: dict[str, Attention] = {
    "naive": naive,
    "sdpa flash": _sdpa(SDPBackend.FLASH_ATTENTION),
    "sdpa efficient": _sdpa(SDPBackend.EFFICIENT_ATTENTION),
    "sdpa cudnn": _sdpa(SDPBackend.CUDNN_ATTENTION),
    "sdpa math": _sdpa(SDPBackend.MATH),
    "flex compiled": _flex,
    "xformers": _xformers,
}


def reason(function: Callable[[], object]) -> str | None:
    """Why ``function`` cannot run, in one line; None when it can. Only refusals count, an interrupt goes through."""
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
