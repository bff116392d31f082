"""Compare every kernel with float64 and with eager PyTorch in the same dtype.

Runs on a GPU where there is one (real shapes; float32, float16, bfloat16) and in Triton's interpreter otherwise
(tiny shapes; float32 and float16). A kernel holds when its relative Frobenius error against float64 is at most 1.5
times that of eager PyTorch, forward and every gradient. Exit status 1 if one does not. Needs torch, triton and numpy.
"""

from __future__ import annotations

import argparse
import os
import sys

from bench.cases import OPERATIONS, module
from bench.table import format_table

HEADER = ("kernel", "mode", "dtype", "shape", "quantity", "error", "eager", "ratio", "verdict")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which operations."""
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="only this one (repeatable)")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 1 if a comparison does not hold."""
    import torch

    from bench.comparison import compare
    from kernels.launch import interpreted

    if not torch.cuda.is_available() and not interpreted():
        sys.stdout.flush()
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "bench", *sys.argv[1:]], environment)
    device = torch.device("cpu" if interpreted() else "cuda")
    where = "Triton's interpreter" if interpreted() else torch.cuda.get_device_name(device)
    rows, failed = [], 0
    for operation in arguments.operation or OPERATIONS:
        for case in module(operation).numerics(device, interpreted()):
            for done in compare(case):
                failed += not done.holds
                rows.append(
                    (
                        operation,
                        case.mode,
                        str(case.dtype).removeprefix("torch."),
                        case.shape,
                        done.quantity,
                        f"{done.error:.1e}",
                        f"{done.eager_error:.1e}",
                        f"{done.ratio:.2f}",
                        "holds" if done.holds else "FAILS",
                    )
                )
    print(format_table(HEADER, rows))
    print(f"\n{len(rows)} comparisons on {where}, {failed} failed.")
    return 1 if failed else 0
