"""Every kernel of this project, compiled for each architecture and executed: exact, in bounds, ordered, repeatable."""

import pytest
import torch

from bench.checks import cases
from bench.checks.cases import OPERATIONS
from bench.checks.error_bound import HOLDS
from bench.ptx import Machine, Options
from bench.ptx.execute import SHAPES, execute_case, select
from kernels.spatial import configs as spatial_configs


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


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.bfloat16, (1, 1, 133, 1, 24)),
        (torch.float16, (1, 1, 70, 1, 64, 33)),
        (torch.bfloat16, (1, 1, 133, 1, 96)),
    ],
)
def test_one_backward_pass_holds_for_few_heads_too(dtype, shape, architecture, monkeypatch):
    """The models take it where there are many heads and frame rows, which would take minutes to execute."""
    monkeypatch.setattr(spatial_configs, "MULTIPROCESSORS", {})
    found = cases.numerics("spatial_attention", torch.device("cpu"), True, [shape], ())
    (case,) = [case for case in found if case.dtype == dtype]
    machine = Machine(Options(architecture=architecture))
    rows = execute_case(case, machine, repeat=True)
    values = {"spatial_backward_keys"} if shape[4] > 64 else set()
    assert {report.name for report in machine.reports} == {"spatial_forward", "spatial_backward"} | values
    assert all(row["verdict"] == HOLDS for row in rows), rows


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("head_dim", [64, 91])
def test_a_relevance_map_of_several_tiles_of_queries_a_program_holds(head_dim, architecture, monkeypatch):
    """Rows of up to 128 positions take smaller ones; the carried row of a rollout step was read beyond its end once."""
    monkeypatch.setattr(spatial_configs, "MULTIPROCESSORS", {})
    found = cases.numerics("relevance", torch.device("cpu"), True, [(1, 1, 140, 1, head_dim)], ())
    (case,) = [case for case in found if case.mode == "spatial after_mean"]
    machine = Machine(Options(architecture=architecture))
    rows = execute_case(case, machine, repeat=True)
    assert {report.meta["TILES"] > 1 for report in machine.reports if report.name == "spatial_map"} == {True}
    assert all(row["verdict"] == HOLDS for row in rows), rows


def test_every_operation_has_shapes_in_every_set():
    assert all(set(shapes) == set(OPERATIONS) for shapes in SHAPES.values())
