"""Which launch settings of temporal attention are the fastest, as rows for kernels/temporal/configs.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.kernels.temporal_peers import HEADS, POSITIONS

if TYPE_CHECKING:
    import torch

HEAD_DIMS = (64, 96)


def tune(head_dim: int, dtype: torch.dtype, milliseconds: int) -> Iterator[str]:
    """Time every candidate setting at the paper's shape; last come rows for `settings.py`."""
    import torch

    from bench.kernels.tune import described, time_settings
    from kernels.common.launch import Setting, architecture
    from kernels.temporal import configs as settings
    from kernels.temporal import operator

    qkv = torch.randn(8, 7, POSITIONS, 3, HEADS, head_dim, device="cuda").to(dtype)
    grad_out, gradient = torch.randn_like(qkv[:, :, :, 0]), torch.empty_like(qkv)
    q, k, v = qkv.unbind(3)
    mode = "fused" if dtype == torch.float32 else "telescoped"
    form, stages = ("EXACT", (1, 2, 3)) if dtype == torch.float32 else ("MATRIX", (1,))
    tried = [Setting(*one) for one in itertools.product((16, 32, 64, 128), (1, 2, 4, 8), stages)]
    out = operator.empty_out(q)
    calls = {
        "FORWARD": (lambda: operator.launch_forward(q, k, v, 0.1, mode, out, None), out),
        "BACKWARD": (
            lambda: operator.launch_backward(q, k, v, grad_out, 0.1, mode, *gradient.unbind(3), None), gradient
        ),
    }  # fmt: skip
    number = architecture(q)
    for which, (call, result) in calls.items():
        times, others = time_settings(getattr(settings, f"{form}_{which}"), number, tried, call, result, milliseconds)
        for line in described(times, others):
            yield f"# {form}_{which} {line}"
        if times:
            fastest = min(times, key=times.get)
            where = f"{torch.cuda.get_device_name()}, B=8 T=6 D={head_dim} {mode}: {times[fastest]:.1f} us"
            yield f"{form}_{which}: {number}: [(8, {fastest}), ...]  # {where}"
