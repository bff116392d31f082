"""Which launch settings of spatial attention are the fastest, as rows for kernels/spatial/configs.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from bench.kernels.shapes import HEADS, PAPER, Shape, inputs

if TYPE_CHECKING:
    import torch

    from kernels.spatial.configs import TileSetting


def candidates(bits: int) -> list[TileSetting]:
    """The launch settings that are worth trying for a dtype of `bits` bits."""
    from kernels.spatial.configs import TileSetting

    if bits == 32:
        tiles = itertools.product((32, 64, 128), (4, 8), (1, 2), (16, 32, 64))
        return [TileSetting(*tile) for tile in tiles]
    tiles = list(itertools.product((64, 128), (4, 8), (2, 3), (32, 64, 128)))
    # 256 threads of at most 128 registers: two programs on a processor.
    capped = [TileSetting(*tile, max_registers=128) for tile in tiles if tile[:2] == (128, 8)]
    return [TileSetting(*tile) for tile in tiles] + capped


def tune(
    dtype: torch.dtype, head_dims: Sequence[int], milliseconds: int, shape: Shape = PAPER, *, device: str = "cuda"
) -> Iterator[str]:
    """Time every candidate at `shape`; last come rows to paste into settings.py.

    A candidate that does not compile, does not fit or does not give the numbers of the present setting is left out,
    and the reason is said.
    The two backward kernels are tuned one after the other, each timed together with the other's present setting.
    """
    import torch
    import triton

    from bench.kernels.tune import described, time_settings
    from kernels.common.launch import architecture
    from kernels.spatial import configs as settings

    bits = 8 * dtype.itemsize
    best: dict[str, list[str]] = {}
    number = 0
    for head_dim in head_dims:
        qkv, grad_out = inputs(shape, head_dim, dtype, device)
        number = architecture(qkv)
        for kernel, (call, result) in _calls(qkv, grad_out).items():
            name = f"{kernel}_{bits}"
            times, others = time_settings(getattr(settings, name), number, candidates(bits), call, result, milliseconds)
            for line in described(times, others):
                yield f"# {name} D={head_dim} {line}"
            if times:
                best.setdefault(name, []).append(f"({head_dim}, {min(times, key=times.get)})")
    where = (
        f"measured on {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"B={shape.clips} F={shape.rows} S={shape.positions} N={HEADS}"
    )
    for name, found in best.items():
        yield f"{name}:\n    {number}: [{', '.join(found)}],  # {where}"


def _calls(qkv: torch.Tensor, grad_out: torch.Tensor) -> dict[str, tuple[Callable[[], None], torch.Tensor]]:
    """For each table of settings: bare launches that use it, and the buffer that they write."""
    import torch

    from kernels.spatial import operator

    q, k, v = qkv.unbind(3)
    out, normalizer, gradient = operator.empty_out(q), operator.empty_normalizer(q), torch.empty_like(qkv)

    def forward() -> None:
        operator.launch_forward(q, k, v, 0.1, out, normalizer, None)

    def backward() -> None:
        operator.launch_backward(q, k, v, out, normalizer, grad_out, 0.1, *gradient.unbind(3), None)

    return {
        "FORWARD": (forward, out),
        "BACKWARD_QUERIES": (backward, gradient),
        "BACKWARD_KEYS": (backward, gradient),
    }
