"""Floating-point operations of a training step, and torch's FLOP counter for this project's operators.

A fused attention counts the work that cannot be done without, as PyTorch counts its own: 2 products of queries times
keys times D forward, QK^T and AV, and 5 backward, because the scores, which are not stored, are computed once more.
That is what this project's kernels do, but for the spatial backward of float32 and of wide heads: of its two kernels,
one for the gradient of the queries and one for those of keys and values, each computes scores and their gradient for
itself. These two products more are not counted as work, nor is padding.
"""

import contextlib
import math
from collections.abc import Iterator
from functools import cache, partial
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
from istvt.config import ISTVTConfig
from istvt.model.flops import total_cost
from istvt.model.istvt import ISTVT

FORWARD, BACKWARD = 2, 5


def _attention_flops(products: int, axis: int, q: torch.Size, k: Any, *_: Any, out_shape: Any = None) -> int:
    """Count products over the keys of dimension `axis` of q and k `[B, F, S, N, D]`, or of one packed `q`."""
    packed = len(q) == 6
    return 2 * products * math.prod(q) * (q if packed else k)[axis] // (3 if packed else 1)


for _axis, _kind in ((1, "temporal"), (2, "spatial")):
    for _suffix, _products in (("", FORWARD), ("_backward", BACKWARD), ("_packed_backward", BACKWARD)):
        _operator = getattr(torch.ops.istvt, f"{_kind}_attention{_suffix}")
        register_flop_formula(_operator)(partial(_attention_flops, _products, _axis))

# PyTorch has formulas for its fused attention on GPUs alone.
for _operator, _formula in (
    (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, sdpa_flop),
    (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward, sdpa_backward_flop),
):
    if _operator not in flop_registry:
        register_flop_formula(_operator, get_raw=True)(_formula)


@contextlib.contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count operators and compute or store nothing; tensors must be made inside too.

    On a CPU as well this project's functions call the operators that a GPU would be asked for.
    """
    with (
        patch("kernels.common.launch.interpreted", lambda: True),
        FakeTensorMode(),
        FlopCounterMode(display=False) as counter,
    ):
        yield counter


def useful_flops(config: ISTVTConfig) -> int:
    """Return those of a clip's forward and backward pass, every layer over the whole grid, as published tables count.

    Three times twice the multiply-accumulates of istvt/model/flops.py.
    """
    cost = total_cost(config)
    return 3 * 2 * (cost.layer_macs + cost.attention_macs)


@cache
def needed_flops(config: ISTVTConfig) -> int:
    """Return the same without what the last block leaves out, because the logit does not read it; as counted."""
    with counting() as counter, torch.no_grad():
        with patch.object(ISTVT, "init_weights"):  # reads what it draws
            model = ISTVT(config, backend="reference").eval()
        model(torch.empty(1, config.frames, 3, config.image_size, config.image_size))
    return 3 * counter.get_total_flops()
