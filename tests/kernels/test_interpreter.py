"""bfloat16 in Triton's interpreter: the same results as on a GPU."""

import numpy as np
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
