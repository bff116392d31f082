"""Factorized attention does (HW+1)(T+1)^2 + (T+1)(HW+1)^2 pairs where joint attention does ((T+1)(HW+1))^2."""

import numpy as np
import pytest
import torch

import kernels
from bench import scaling
from bench.__main__ import main
from bench.common import tasks
from bench.common.record import read_run
from bench.common.timing import peak_bytes
from bench.scaling import METHODS, ON_CPU, PASSES, claims, counted_multiply_accumulates, fit_exponent
from bench.training.flops import counting
from kernels import AttentionCapture

# Work is a polynomial of degree two in either size: three of each leave no other.
FRAMES = (1, 6, 63)
NAIVE_JOINT, NAIVE_FACTORIZED = METHODS[0], METHODS[3]
CELLS = (1, 36, 361)
HEADS, HEAD_DIM = 2, 8


def counted_pairs(attend, frames, cells, products=(2, 6)):
    """Query-key pairs, if there and there and back so many products are done over each."""
    shape = (1, frames + 1, cells + 1, 3, HEADS, HEAD_DIM)
    counted = counted_multiply_accumulates(attend, shape, "float32")
    pairs = {macs / (number * HEADS * HEAD_DIM) for macs, number in zip(counted, products, strict=True)}
    assert len(pairs) == 1
    return pairs.pop()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_flop_counter_finds_exactly_the_work_of_the_formula_at_every_size(method):
    """Counted is what is timed: once the kernels were not, but plain PyTorch in their place, and forward alone."""
    # Stored scores: two products there, four back. Fused: the scores once more.
    products = (2, 6 if method.name in ("naive joint", "naive factorized") else 7)
    assert (method.products(backward=False), method.products(backward=True)) == products
    for frames in FRAMES:
        for cells in CELLS:
            rows, columns = frames + 1, cells + 1
            written_out = columns * rows**2 + rows * columns**2 if method.factorized else (rows * columns) ** 2
            assert counted_pairs(method.attend, frames, cells, products) == written_out
            assert method.pairs(frames, cells) == written_out


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_the_flop_counter_knows_every_way_into_the_kernels(kind, packed):
    """Fewer queries than keys, with a capture, and the packed product whose gradient is packed too."""
    pairs, keys = 2 * 4 * (3 * 5 * 5 if kind == "spatial" else 5 * 3 * 3), 5 if kind == "spatial" else 3
    attend = getattr(kernels, f"{kind}_attention_packed" if packed else f"{kind}_attention")
    with counting() as counter:
        qkv = torch.empty(2, 3, 5, 3, 4, 8, requires_grad=True)
        (attend(qkv) if packed else attend(*qkv.unbind(3), capture=AttentionCapture())).sum().backward()
        assert counter.get_total_flops() == 2 * 7 * pairs * 8
    with counting() as counter:
        q, k, v = torch.empty(3, 2, 3, 5, 4, 8).unbind(0)
        getattr(kernels, f"{kind}_attention")(q[:, :, :1] if kind == "spatial" else q[:, :1], k, v)
        assert counter.get_total_flops() == 2 * 2 * 8 * pairs // keys


def test_counted_work_of_joint_attention_is_quadratic_in_both_sizes_exactly():
    over_frames = fit_exponent([t + 1 for t in FRAMES], [counted_pairs(NAIVE_JOINT.attend, t, 36) for t in FRAMES])
    over_cells = fit_exponent([hw + 1 for hw in CELLS], [counted_pairs(NAIVE_JOINT.attend, 6, hw) for hw in CELLS])
    for fit in (over_frames, over_cells):
        assert (fit["exponent"], fit["low"], fit["high"]) == pytest.approx((2, 2, 2), abs=1e-5)


def test_counted_work_of_factorized_attention_is_one_term_linear_and_one_quadratic_in_each_size():
    """A polynomial of degree 2 without constant: its coefficients are the two predicted terms, exactly."""
    cells = 36
    work = [counted_pairs(NAIVE_FACTORIZED.attend, frames, cells) for frames in range(1, 5)]
    quadratic, linear, constant = np.polyfit(np.arange(2, 6), work, 2)
    assert (quadratic, linear) == pytest.approx((cells + 1, (cells + 1) ** 2), rel=1e-9)
    assert constant == pytest.approx(0, abs=1e-6)
    assert np.all(np.diff(work, 3) == 0)
    frames = 6
    work = [counted_pairs(NAIVE_FACTORIZED.attend, frames, cells) for cells in range(1, 5)]
    quadratic, linear, _ = np.polyfit(np.arange(2, 6), work, 2)
    assert (quadratic, linear) == pytest.approx((frames + 1, (frames + 1) ** 2), rel=1e-9)


def test_at_the_papers_size_factorising_saves_the_harmonic_sum_of_frames_and_positions():
    rows, columns = 7, 362
    assert NAIVE_JOINT.pairs(6, 361) / NAIVE_FACTORIZED.pairs(6, 361) == pytest.approx(1 / (1 / rows + 1 / columns))


def test_all_joint_methods_compute_one_function_and_all_factorized_ones_another():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 3, 2, 8, dtype=torch.float64).unbind(3)
    outs = {method.name: method.attend(q, k, v) for method in METHODS}
    for method in METHODS:
        expected = outs["naive factorized" if method.factorized else "naive joint"]
        torch.testing.assert_close(outs[method.name], expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(outs["naive joint"], outs["naive factorized"])


def test_an_exponent_and_its_interval_are_those_of_the_line_that_made_the_points():
    x = np.array([1, 2, 4, 8, 16, 32])
    exact = fit_exponent(x, 3 * x**1.5)
    assert (exact["exponent"], exact["low"], exact["high"]) == pytest.approx((1.5, 1.5, 1.5))
    random = np.random.default_rng(0)
    noisy = [fit_exponent(x, x**1.5 * np.exp(0.3 * random.standard_normal(len(x)))) for _ in range(400)]
    covered = np.mean([fit["low"] <= 1.5 <= fit["high"] for fit in noisy])
    assert 0.92 <= covered <= 0.98  # 95 % by construction
    assert fit_exponent([1, 2], [1, 2]) == {}


def test_a_sweep_measures_what_can_run_and_says_why_the_rest_cannot(tmp_path, monkeypatch, capsys):
    small = ON_CPU._replace(frames=(1, 2), cells=(1, 2), fixed_cells=4, fixed_frames=2)
    monkeypatch.setattr(scaling, "ON_CPU", small)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["scaling", "--output", str(tmp_path), "--milliseconds", "1"]) == 0
    rows = read_run(tmp_path).tables["scaling"]
    assert len(rows) == 4 * len(METHODS) * 2
    for row in rows:
        assert row["macs_counted"] == row["macs_formula"]
        ran = "kernel" not in row["method"]
        assert bool(row["time_us"]) == bool(row["peak_bytes"]) == ran
        assert row["note"] == ("" if ran else "not measured: NotImplementedError: Triton kernels need a GPU")
    assert "Work: at every size the FLOP counter finds exactly" in capsys.readouterr().out


def synthetic_rows(joint_power, factorized_power):
    """Rows as a sweep gives them, of methods whose time is an exact power of T + 1."""
    rows = []
    for frames in (1, 2, 4, 8, 16, 32, 64, 128):
        for method, power in (("naive joint", joint_power), ("naive factorized", factorized_power)):
            pairs = (NAIVE_JOINT if method == "naive joint" else NAIVE_FACTORIZED).pairs(frames, 400)
            for name in PASSES:
                rows += [
                    {"axis": axis, "T": frames, "HW": frames, "method": method, "pass": name, "macs_counted": pairs,
                     "macs_formula": pairs, "time_us": (frames + 1.0) ** power, "peak_bytes": 1000 * frames}
                    for axis in ("T", "HW")
                ]  # fmt: skip
    return rows


@pytest.mark.parametrize(
    ("powers", "says"),
    [((2.0, 1.2), "grows more slowly holds"), ((1.2, 2.0), "does not hold"), ((1.5, 1.5), "the intervals overlap")],
)
def test_the_claim_follows_the_intervals_whichever_way_they_fall(powers, says):
    rows = synthetic_rows(*powers)
    if says == "the intervals overlap":
        noise = np.random.default_rng(0).uniform(0.5, 2, len(rows))
        rows = [row | {"time_us": row["time_us"] * factor} for row, factor in zip(rows, noise, strict=True)]
    judged = [claim for claim in claims(rows, "a test") if "growth with T" in claim]
    assert len(judged) == 2
    assert all(says in claim for claim in judged)


def test_a_formula_that_disagrees_with_the_counter_is_said_and_not_hidden():
    rows = synthetic_rows(2.0, 1.2)
    rows[0]["macs_formula"] += 1
    assert claims(rows, "a test")[0].startswith("Work: counted and predicted")


def test_peak_memory_on_a_cpu_is_what_the_call_allocates_at_most():
    x = torch.ones(1000)
    assert peak_bytes(lambda: x + 1, "cpu") == pytest.approx(4000, abs=256)
    assert peak_bytes(lambda: (x + 1) + (x + 2), "cpu") == pytest.approx(12000, abs=512)


def test_when_the_budget_is_used_up_sizes_are_counted_but_not_measured(tmp_path):
    given = scaling.at_sizes(ON_CPU._replace(frames=(1, 2), cells=(4,)), milliseconds=1)
    rows = tasks.measure(tmp_path, given, budget=1e-9)["scaling"]
    assert len(rows) == 3 * len(METHODS) * 2
    assert {row["note"] for row in rows} == {"not measured: the time was used up"}
    assert all(row["macs_counted"] == row["macs_formula"] and "time_us" not in row for row in rows)
    sizes = [row["T"] if row["axis"] == "T" else row["HW"] for row in rows]
    assert sizes[0] == 1 and sizes[-1] == 2  # both axes grow together


def test_a_method_that_fails_at_one_size_leaves_a_row_with_the_reason(monkeypatch, tmp_path):
    def refuse(q, k, v):
        raise RuntimeError("this peer takes no more than 3 frames")

    monkeypatch.setattr(scaling, "METHODS", (NAIVE_JOINT._replace(attend=refuse),))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = tasks.measure(tmp_path, scaling.at_sizes(ON_CPU._replace(frames=(1,), cells=(4,)), milliseconds=1))[
        "scaling"
    ]
    assert {row["note"] for row in rows} == {"not measured: RuntimeError: this peer takes no more than 3 frames"}
