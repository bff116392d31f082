"""Every kernel of this project, compiled for each architecture and executed: exact, in bounds, ordered, repeatable."""

import pytest
import torch

from bench.checks.cases import OPERATIONS
from bench.checks.error_bound import HOLDS
from bench.ptx import Machine, Options
from bench.ptx.execute import SHAPES, execute_case, select


def executed_cases():
    for which in ("small", "paper", "odd"):
        for operation in OPERATIONS:
            for case in select(which, operation).values():
                name = f"{which}-{operation}-{case.mode}-{str(case.dtype)[6:]}-{case.shape}"
                yield pytest.param(case, id=name, marks=() if which == "small" else pytest.mark.exhaustive)


SMALL = {case.shape for operation in OPERATIONS for case in select("small", operation).values()}


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("case", list(executed_cases()))
def test_a_compiled_kernel_holds_in_every_dtype_and_mode(case, architecture):
    rows = execute_case(case, Machine(Options(architecture=architecture)), repeat=True)
    assert rows
    faults = {row["note"] for row in rows if row.get("note")}
    assert not faults, "\n".join(faults)
    large = [f"{row['quantity']}: {row['ratio']:.2f}" for row in rows if row["verdict"] != HOLDS]
    if large and case.dtype == torch.float32 and case.shape not in SMALL:
        pytest.xfail(f"float32 on tensor cores is not within the bound at every size: {', '.join(large)}")
    assert not large


def test_every_operation_has_shapes_in_every_set():
    assert all(set(shapes) == set(OPERATIONS) for shapes in SHAPES.values())
