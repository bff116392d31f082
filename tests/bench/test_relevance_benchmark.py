"""The benchmark of relevance on a CPU, with clocks that stand still; and what it weighs an explanation against."""

import pytest
import torch

from bench.__main__ import main
from bench.common import ahead, timing
from bench.common.record import read_run
from bench.common.timing import peak_bytes
from bench.kernels import chefer_baseline as published
from bench.kernels import explanation as explanation_cost
from bench.kernels import peers, relevance
from istvt import ISTVT, ISTVTConfig
from istvt.explain import explain

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(relevance, "POSITIONS", 10)
    monkeypatch.setattr(relevance, "HEADS", 2)
    monkeypatch.setattr(peers, "DEVICE", "cpu")


@pytest.fixture
def without_a_gpu(monkeypatch):
    """Everything but the time and the memory of a call, which take a GPU, is real."""
    monkeypatch.setattr(timing, "time_call", lambda function, **_: timing.Timing(10.0, 9.0, 11.0))
    monkeypatch.setattr(timing, "peak_bytes", lambda function, *_: 1024)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def tiny_model(depth: int = 3, **options) -> ISTVT:
    torch.manual_seed(0)
    config = ISTVTConfig(
        frames=3, image_size=40, dim=16, heads=2, depth=depth, mlp_dim=24, backbone_dims=(4, 4, 8, 8), **options
    )
    return ISTVT(config).eval()


@pytest.mark.parametrize("which", relevance.PRODUCTS)
@pytest.mark.parametrize("kind", relevance.KINDS)
def test_the_stored_form_computes_what_the_kernels_do_padded_or_not(kind, which, small):
    plain = relevance.inputs(kind, (2, 4, 10, 2, 11), 11, "cpu")
    padded = relevance.inputs(kind, (2, 4, 10, 2, 11), 16, "cpu")
    expected = relevance.stored(kind, which, plain, 11**-0.5)
    for tensors in (plain, padded):
        found = relevance.ours(kind, which, tensors, 11**-0.5)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[..., : other.shape[-1]], other, rtol=1e-4, atol=1e-5)


def test_the_floor_counts_what_must_move():
    tensor, matrix = 4 * 8 * 7 * 362 * 8 * 96, 4 * 8 * 7 * 362**2
    spatial, temporal = (relevance.floors(kind, 8, 6, 96) for kind in ("spatial", "temporal"))
    assert spatial["map"] == 5 * tensor + matrix
    assert spatial["relevance"] == 7 * tensor
    assert temporal["map"] == 5 * tensor + 4 * 8 * 362 * 7**2
    needed = relevance.useful_operations("spatial", 8, 6, 91)
    assert needed["map"] == 3 * 2 * 8 * 7 * 8 * 362**2 * 91
    assert needed["relevance"] == 2 * needed["map"]


def test_every_contender_is_a_row_a_pass_and_what_runs_out_of_memory_says_so(small, without_a_gpu, monkeypatch):
    def greedy(kind, which, tensors, scale):
        if which == "map":
            raise torch.OutOfMemoryError
        return relevance.stored(kind, which, tensors, scale)

    monkeypatch.setitem(relevance.CONTENDERS, "stored", greedy)
    rows = list(relevance.measure("spatial", 1, 2, 8, 1e12, 1))
    assert [(row["contender"], row["pass"]) for row in rows] == [
        (name, which) for name in ("ours", "stored") for which in relevance.PRODUCTS
    ]
    assert [row.get("note") for row in rows] == [None] * 4 + ["out of memory", None]
    assert all(("microseconds" in row) != ("note" in row) for row in rows)
    floor = relevance.floors("spatial", 1, 2, 16)["relevance"]
    assert rows[0]["share_of_floor"] == pytest.approx(floor / 1e12 / 10e-6)


def test_the_command_writes_the_operations_at_both_head_dimensions(small, without_a_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    monkeypatch.setattr(timing, "copy_bandwidth", lambda: 4e12)
    compiled = []
    monkeypatch.setattr(ahead, "compile_ahead", compiled.extend)
    monkeypatch.setattr(relevance, "QUICK_SHAPES", [(1, 2)])
    rows = list(relevance.measure_operations(quick=True, milliseconds=1))
    assert len(compiled) == 2 * 2 * 3
    assert {(row["mode"], row["head_dim"]) for row in rows} == {(k, d) for k in relevance.KINDS for d in (64, 91)}


@pytest.mark.parametrize("change", [{}, {"self_subtract": False}, {"head_norm": True, "layer_norm_eps": 0.1}], ids=str)
@pytest.mark.parametrize("parameter_gradients", [True, False])
def test_the_published_storage_gives_the_heatmaps_of_its_rules(change, parameter_gradients):
    """Theirs layer by layer under autograd, and this project's by written-out formulas."""
    model = tiny_model(**change).double()
    clip = 2 * torch.rand(1, 3, 3, 40, 40, dtype=torch.float64) - 1
    expected = explain(model, clip, stabilizer="reference", clamp="before_mean", keep_maps=True)
    found = published.explain(model, clip, parameter_gradients=parameter_gradients)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=0)
    for name in ("temporal", "spatial"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=0)
        assert getattr(found, name).std() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_published_storage_is_what_their_code_keeps_of_a_block_and_not_more():
    """Of each attention: scores, scaled scores, A, its gradient, R. Of tokens: every layer's inputs and outputs."""

    def peak(depth):
        torch.manual_seed(0)
        config = ISTVTConfig(frames=7, grid=(6, 6), dim=48, heads=4, depth=depth, mlp_dim=96)
        model, tokens = ISTVT(config).eval(), torch.randn(1, 8, 37, 48)
        return peak_bytes(lambda: published.explain(model, tokens=tokens), "cpu")

    matrices = 5 * (8 * 4 * 37**2 + 37 * 4 * 8**2)
    # Three norms, the difference, two output projections, two sums, MLP out; q, k, v, their copies by head, the output
    # by head and by token and the relevance of v, twice; two hidden tensors of twice the width.
    tokens = (9 + 2 * 9 + 2 * 2) * 8 * 37 * 48
    assert (peak(4) - peak(2)) / 2 == pytest.approx(4 * (matrices + tokens), rel=0.1)


def test_the_published_storage_is_written_for_one_clip_and_one_order_of_attentions():
    with pytest.raises(ValueError, match="attention is 'spatial_first'"):
        published.explain(tiny_model(attention="spatial_first"), torch.zeros(1, 3, 3, 40, 40))
    with pytest.raises(ValueError, match="there are 2 clips"):
        published.explain(tiny_model(), torch.zeros(2, 3, 3, 40, 40))


def test_on_a_cpu_the_command_weighs_an_explanation_and_times_nothing(tmp_path, capsys):
    assert main(["relevance", "--quick", "--preset", "small", "--output", str(tmp_path)]) == 0
    assert "what an explanation stores is measured, and no time" in capsys.readouterr().out
    tables = read_run(tmp_path).tables
    assert set(tables) == {"explanation_memory"}
    rows = {(row["from"], row["storage"]): row for row in tables["explanation_memory"]}
    assert {start for start, _ in rows} == {"clip", "tokens"}
    for start in ("clip", "tokens"):
        light, full = (rows[start, name] for name in explanation_cost.QUICK_STORAGES)
        assert float(light["over_light"]) == 1
        ratio = int(full["peak_bytes"]) / int(light["peak_bytes"])
        assert float(full["over_light"]) == pytest.approx(ratio, rel=1e-4)


def test_what_runs_out_of_memory_when_weighed_is_a_row_that_says_so(monkeypatch):
    def greedy(model, **of):
        raise torch.OutOfMemoryError

    monkeypatch.setitem(explanation_cost.STORAGES, explanation_cost.REFERENCE, greedy)
    rows = list(explanation_cost.measure_memory("small", CPU, explanation_cost.QUICK_STORAGES))
    assert [row["note"] for row in rows] == ["", "not measured: more memory than this GPU has"] * 2
    assert rows[1]["peak_bytes"] is None and rows[1]["over_light"] is None


def test_a_gpu_that_an_error_broke_costs_rows_and_not_the_table(monkeypatch):
    """Giving memory back raises then too, and that went through everything: the rows before were lost."""

    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, broken)
    assert timing.attempt(lambda: 1) == (1, "")
    assert timing.attempt(broken)[1].startswith("not measured: RuntimeError: CUDA error: an illegal")


def test_each_time_is_there_before_the_next_is_taken(monkeypatch):
    """Killed at its limit the command left no time at all: all were taken before the first row."""
    taken = []
    monkeypatch.setattr(explanation_cost, "seconds_a_call", lambda *given: taken.append(given) or 1.0)
    next(explanation_cost.measure_time("small", 1, CPU, 1, execution="eager"))
    assert len(taken) == 2


def test_explaining_is_timed_against_training_steps_in_each_precision(monkeypatch):
    monkeypatch.setattr(explanation_cost, "PAIRS", (("float32", "float32"), ("float32", "bfloat16")))
    rows = list(explanation_cost.measure_time("small", 1, CPU, 1, execution="eager"))
    assert [(row["arithmetic"], row["training"]) for row in rows] == list(explanation_cost.PAIRS)
    assert all(row["ratio"] == row["explain_ms"] / row["training_ms"] and not row["note"] for row in rows)
    (left, _) = explanation_cost.measure_time("small", 1, CPU, 1, execution=None)
    assert left["explain_ms"] > 0 and left["ratio"] is None
    assert left["note"] == "the training step is timed by bench training"
