"""Every kernel's comparison against float64: the cases of `python -m bench numerics`."""

import pytest
import torch

from bench.checks.cases import OPERATIONS, numerics
from bench.checks.error_bound import HOLDS, compare
from kernels.common.launch import interpreted

DEVICE = torch.device("cpu" if interpreted() else "cuda")
CASES = [case for operation in OPERATIONS for case in numerics(operation, DEVICE, interpreted())]
if interpreted():
    # float16 takes the way of bfloat16, so the first of each operation and mode is enough; `bench numerics` has all.
    halves = {(case.operation, case.mode): case for case in reversed(CASES) if case.dtype == torch.float16}
    CASES = [case for case in CASES if case.dtype != torch.float16] + list(halves.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation}-{case.mode}-{case.dtype}-{case.shape}")
def test_the_error_is_at_most_one_and_a_half_times_that_of_eager_pytorch(case, poisoned):
    for row in compare(case):
        assert row["verdict"] == HOLDS, f"{row['quantity']}: {row['error']:.2e}, eager {row['eager']:.2e}"
