"""Every kernel of this project, compiled for each architecture and executed: exact, in bounds, ordered, repeatable."""

import pytest

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


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("case", list(executed_cases()))
def test_a_compiled_kernel_holds_in_every_dtype_and_mode(case, architecture):
    rows = execute_case(case, Machine(Options(architecture=architecture)), repeat=True)
    wrong = [row for row in rows if row["verdict"] != HOLDS]
    assert rows and not wrong, "\n".join(
        f"{row['quantity']}: {row['ratio']:.2f} {row.get('note', '')}" for row in wrong
    )


def test_every_operation_has_shapes_in_every_set():
    assert all(set(shapes) == set(OPERATIONS) for shapes in SHAPES.values())
