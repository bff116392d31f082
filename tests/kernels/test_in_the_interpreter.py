"""Without a GPU the tests of `tests/gpu` run in Triton's interpreter, in sessions of their own.

`make test` runs the first session, and `make interpreter` all of them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parents[1] / "gpu"
# A session takes five seconds to start. In `make interpreter` each core has one until the end.
SESSIONS = [
    ("test_operators.py", "test_layer_norm_difference_kernel.py"),
    ("test_relevance_kernel.py", "test_bfloat16.py"),
    ("test_numerics.py",),
    ("test_spatial_attention_kernel.py", "test_temporal_attention_kernel.py"),
]
IN_MAKE_TEST, *LONG = SESSIONS


def test_every_file_has_its_session():
    assert sorted(name for names in SESSIONS for name in names) == sorted(path.name for path in HERE.glob("test_*.py"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tests run on the GPU itself")
@pytest.mark.parametrize(
    "names", [IN_MAKE_TEST, *(pytest.param(names, marks=pytest.mark.exhaustive) for names in LONG)], ids=" ".join
)
def test_the_kernels_hold_in_the_interpreter(names):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(HERE / name) for name in names)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
