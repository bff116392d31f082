"""Without a GPU the tests of `tests/gpu` run in Triton's interpreter, in sessions of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.checks.cases import OPERATIONS

HERE = Path(__file__).parents[1] / "gpu"
SESSIONS = {file.stem: (str(file),) for file in sorted(HERE.glob("test_*.py"))}
# The numerics of each operation by themselves, so that every core has something to do until the end.
numerics = SESSIONS.pop("test_numerics")
SESSIONS |= {f"test_numerics of {operation}": (*numerics, "-k", operation) for operation in OPERATIONS}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tests run on the GPU itself")
@pytest.mark.parametrize("session", SESSIONS)
def test_the_kernels_hold_in_the_interpreter(session):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SESSIONS[session]],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
