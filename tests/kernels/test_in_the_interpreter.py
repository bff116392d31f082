"""Without a GPU the files of ``on_device/`` run in Triton's interpreter, each in a session of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FILES = sorted((Path(__file__).parent / "on_device").glob("test_*.py"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the files run on the GPU itself")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_kernels_hold_in_the_interpreter(file):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
