"""`python -m bench execute` and `python -m bench count`: records of compiled kernels."""

import pytest

from bench.__main__ import main
from bench.common.record import read_run
from bench.ptx import Machine, Options
from bench.ptx.count import counts, described, needed_multiply_adds
from bench.ptx.execute import NOT_THE_SAME, execute_case, select

ONE = ["--operation=layer_norm_difference", "--which=small", "--dtype=bfloat16", "--sm=80", "--processes=1"]


def test_execute_writes_the_records_of_numerics_for_each_architecture(tmp_path, capsys):
    assert main(["execute", *ONE, "--repeat", f"--output={tmp_path}", "--commit=given"]) == 0
    rows = read_run(tmp_path).tables["execute"]
    assert [row["quantity"] for row in rows] == ["out", "grad x", "grad weight", "grad bias"]
    assert {(row["sm"], row["kernel"], row["dtype"], row["verdict"]) for row in rows} == {
        ("80", "layer_norm_difference", "bfloat16", "holds")
    }
    assert all(0 <= float(row["ratio"]) <= 1.5 for row in rows)
    assert "4 comparisons of compiled kernels, 0 failed." in capsys.readouterr().out


def test_execute_fails_where_no_case_is_chosen():
    assert main(["execute", *ONE, "--shape=S=0"]) == 1


@pytest.fixture
def case():
    [case] = select("small", "layer_norm_difference", ["bfloat16"]).values()
    return case


def test_other_bits_in_another_order_of_programs_are_a_failure(case, monkeypatch):
    machine = Machine(Options(architecture=80))
    run = machine.run

    def forgetful(kernel, grid, arguments, options, meta):
        report = run(kernel, grid, arguments, options, meta)
        if machine.options.reverse and "out" in arguments:
            arguments["out"].view(-1)[0] += 1
        return report

    monkeypatch.setattr(machine, "run", forgetful)
    rows = execute_case(case, machine, repeat=True)
    assert {(row["verdict"], row["note"]) for row in rows} == {("FAILS", NOT_THE_SAME)}


def test_counts_of_a_launch_are_a_record_and_lines_of_python(case):
    machine = Machine(Options(architecture=90))
    with machine.takes_launches():
        case.kernel()
    forward = machine.reports[0]
    row = {"sm": 90, "kernel": forward.name, "dtype": "bfloat16", "shape": case.shape, "times": 1}
    row |= counts(forward.name, forward, 90)
    assert row["instructions"] == sum(forward.by_class().values()) == forward.counts[:, 0].sum() > 0
    assert row["loaded_sectors"] >= row["distinct_loaded_sectors"] > 0
    assert row["multiply_adds"] == row["needed_multiply_adds"] == 0  # no tensor cores in a normalization
    text = described(row, forward, verbose=True)
    assert "layer_norm_difference_forward bfloat16" in text
    assert "kernels.py:" in text


def test_products_of_attention_are_those_of_its_mathematics():
    [case] = select("small", "spatial_attention", ["bfloat16"], captures=()).values()
    machine = Machine(Options(architecture=80))
    with machine.takes_launches():
        case.kernel()
    forward = next(report for report in machine.reports if report.name == "spatial_forward")
    assert needed_multiply_adds("spatial_forward", forward) == 2 * 2 * 2 * 37 * 37 * 40  # products, F, N, S, S, D
    assert forward.multiply_adds() >= needed_multiply_adds("spatial_forward", forward)
