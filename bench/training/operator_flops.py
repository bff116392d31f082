"""What torch's FLOP counter counts for fused attention, which it cannot look into.

Counted is the work that cannot be done without, as PyTorch counts its own fused attention: 2 products of queries times
keys times D forward, QK^T and AV, and 5 backward, because the scores, which nobody stored, are computed once more. That
is what this project's temporal kernels do. Its spatial backward does 7: of two kernels, one for the gradient of the
queries and one for those of keys and values, each computes scores and their gradient for itself, so that neither waits
for the other's sums; the two products more are not counted as work, nor is padding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop,
    sdpa_flop,
)

import kernels  # noqa: F401  (defines the operators)

FORWARD, BACKWARD = 2, 5

_istvt, _aten = torch.ops.istvt, torch.ops.aten


@register_flop_formula((_istvt.spatial_attention, _istvt.spatial_attention_with_attention))
def _spatial_forward(q: torch.Size, k: torch.Size, *_: Any, out_shape: Any = None) -> int:
    return 2 * FORWARD * math.prod(q) * k[2]


@register_flop_formula((_istvt.spatial_attention_backward, _istvt.spatial_attention_backward_with_attention))
def _spatial_backward(q: torch.Size, k: torch.Size, *_: Any, out_shape: Any = None) -> int:
    return 2 * BACKWARD * math.prod(q) * k[2]


@register_flop_formula(_istvt.spatial_attention_packed_backward)
def _spatial_packed_backward(qkv: torch.Size, *_: Any, out_shape: Any = None) -> int:
    return 2 * BACKWARD * math.prod(qkv) // 3 * qkv[2]


@register_flop_formula((_istvt.temporal_attention, _istvt.temporal_attention_with_attention))
def _temporal_forward(q: torch.Size, k: torch.Size, *_: Any, out_shape: Any = None) -> int:
    return 2 * FORWARD * math.prod(q) * k[1]


@register_flop_formula((_istvt.temporal_attention_backward, _istvt.temporal_attention_backward_with_attention))
def _temporal_backward(q: torch.Size, k: torch.Size, *_: Any, out_shape: Any = None) -> int:
    return 2 * BACKWARD * math.prod(q) * k[1]


@register_flop_formula(_istvt.temporal_attention_packed_backward)
def _temporal_packed_backward(qkv: torch.Size, *_: Any, out_shape: Any = None) -> int:
    return 2 * BACKWARD * math.prod(qkv) // 3 * qkv[1]


# PyTorch has formulas for its fused attention on GPUs alone.
for _operator, _formula in (
    (_aten._scaled_dot_product_flash_attention_for_cpu, sdpa_flop),
    (_aten._scaled_dot_product_flash_attention_for_cpu_backward, sdpa_backward_flop),
):
    if _operator not in flop_registry:
        register_flop_formula(_operator, get_raw=True)(_formula)


@contextlib.contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Inside, operators are counted and nothing is computed or stored; tensors must be made inside too.

    On a CPU as well this project's functions call the operators that a GPU would be asked for.
    """
    with (
        patch("kernels.common.launch.interpreted", lambda: True),
        FakeTensorMode(),
        FlopCounterMode(display=False) as counter,
    ):
        yield counter
