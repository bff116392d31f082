"""bfloat16 in Triton's interpreter: the same results as on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.common.interpreter import to_bfloat16, to_float32

EDGES = [0.0, -0.0, float("inf"), float("-inf"), 1.00390625, 1.01171875, 3.3895314e38, 3.4e38, 1e-40, -1e-45]


def test_conversions_round_to_nearest_as_pytorch_does_for_every_exponent():
    generator = torch.Generator().manual_seed(0)
    exponents = torch.randint(-149, 128, (100_000,), generator=generator).float()
    x = torch.cat([torch.randn(100_000, generator=generator) * torch.exp2(exponents), torch.tensor(EDGES)])
    expected = x.bfloat16()
    found = torch.from_numpy(to_bfloat16(x.numpy()).view(np.int16)).view(torch.bfloat16)
    assert torch.equal(found, expected)
    assert torch.equal(torch.from_numpy(to_float32(to_bfloat16(x.numpy()))), expected.float())
    assert np.isnan(to_float32(to_bfloat16(np.array([np.nan, -np.nan, np.float32(0)], np.float32)))).tolist() == [
        True, True, False,
    ]  # fmt: skip


KERNEL = """
import torch, triton, triton.language as tl
import kernels

@triton.jit
def multiply(a, b, c, SIDE: tl.constexpr):
    rows = tl.arange(0, SIDE)
    places = rows[:, None] * SIDE + rows[None, :]
    product = tl.dot(tl.load(a + places), tl.load(b + places))
    tl.store(c + places, product.to(tl.bfloat16))

torch.manual_seed(0)
a, b = torch.randn(2, 16, 16).bfloat16()
c = torch.empty_like(a)
multiply[(1,)](a, b, c, SIDE=16)
assert torch.equal(c, (a.float() @ b.float()).bfloat16()), c
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs no interpreter")
def test_a_bfloat16_product_is_the_product_of_numbers_and_not_of_bit_patterns(tmp_path):
    """Triton multiplies the bit patterns (triton#11584), and every result is off by powers of ten."""
    script = tmp_path / "multiply.py"  # the interpreter reads a kernel's source from its file
    script.write_text(KERNEL)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
