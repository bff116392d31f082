"""The benchmark of relevance on a CPU, with clocks that stand still; and what it weighs an explanation against."""

import pytest
import torch

from bench.__main__ import main
from bench.common import peers, timing
from bench.common.record import read_run
from bench.common.tasks import measure
from bench.common.timing import peak_bytes
from bench.kernels import chefer_baseline as published
from bench.kernels import relevance
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
    found = {"microseconds": 10.0, "p20": 9.0, "p80": 11.0}
    monkeypatch.setattr(timing, "time_call", lambda function, **_: [function(), dict(found)][1])
    monkeypatch.setattr(timing, "peak_bytes", lambda function, *_: 1024)
    monkeypatch.setattr(timing, "copy_bandwidth", lambda: 1e12)


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
    spatial, temporal = (relevance.needed(kind, 8, 6, 91, 96) for kind in ("spatial", "temporal"))
    assert spatial["moved"]["map"] == 5 * tensor + matrix
    assert spatial["moved"]["relevance"] == 7 * tensor
    assert temporal["moved"]["map"] == 5 * tensor + 4 * 8 * 362 * 7**2
    assert spatial["operations"]["map"] == 3 * 2 * 8 * 7 * 8 * 362**2 * 91
    assert spatial["operations"]["relevance"] == 2 * spatial["operations"]["map"]


def test_every_contender_is_a_row_a_pass_and_what_runs_out_of_memory_says_so(
    small, without_a_gpu, monkeypatch, tmp_path
):
    def greedy(kind, which, tensors, scale):
        if which == "map":
            raise torch.OutOfMemoryError
        return relevance.stored(kind, which, tensors, scale)

    monkeypatch.setitem(relevance.CONTENDERS, "stored", greedy)
    monkeypatch.setattr(relevance, "HEAD_DIMS", (8,))
    monkeypatch.setattr(relevance, "KINDS", ("spatial",))
    rows = measure(tmp_path, relevance.operations([(1, 2)], 1))["relevance"]
    assert [(row["contender"], row["pass"]) for row in rows] == [
        (name, which) for name in ("ours", "stored") for which in relevance.PRODUCTS
    ]
    assert [row["note"] for row in rows] == [""] * 4 + ["not measured: more memory than this GPU has", ""]
    assert all(("microseconds" in row) != bool(row["note"]) for row in rows)
    floor = relevance.needed("spatial", 1, 2, 8, 16)["moved"]["relevance"]
    assert rows[0]["share_of_floor"] == pytest.approx(floor / 1e12 / 10e-6)


def test_operations_are_measured_at_both_head_dimensions_and_ours_are_compiled_ahead():
    tasks = list(relevance.operations([(1, 2)], 1))
    assert {(task.row["mode"], task.row["head_dim"]) for task in tasks} == {
        (kind, head_dim) for kind in relevance.KINDS for head_dim in (64, 91)
    }
    assert {task.row["contender"] for task in tasks if task.prepare} == {"ours"}
    assert len([task for task in tasks if task.prepare]) == 2 * 2 * 3


@pytest.mark.parametrize("change", [{}, {"self_subtract": False}, {"head_norm": True, "layer_norm_eps": 0.1}], ids=str)
@pytest.mark.parametrize("parameter_gradients", [True, False])
def test_the_published_storage_gives_the_heatmaps_of_its_rules(change, parameter_gradients):
    """Theirs layer by layer under autograd, and this project's by written-out formulas."""
    model = tiny_model(**change).double()
    clip = 2 * torch.rand(1, 3, 3, 40, 40, dtype=torch.float64) - 1
    expected = explain(model, clip, stabilizer="reference", clamp="before_mean", keep_maps=True)
    logits, *heat = published.explain(model, clip, parameter_gradients=parameter_gradients)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-9, atol=0)
    for found, name in zip(heat, ("temporal", "spatial"), strict=True):
        torch.testing.assert_close(found, getattr(expected, name), rtol=1e-5, atol=0)
        assert found.std() > 0
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
    assert main(["relevance", "--preset", "small", "--output", str(tmp_path)]) == 0
    assert "what an explanation stores is measured, and no time" in capsys.readouterr().out
    tables = read_run(tmp_path).tables
    assert set(tables) == {"explanation_memory"}
    rows = {(row["from"], row["storage"]): row for row in tables["explanation_memory"]}
    assert {start for start, _ in rows} == {"clip", "tokens"}
    for start in ("clip", "tokens"):
        light, full = (rows[start, name] for name in (relevance.LIGHT, relevance.REFERENCE))
        assert float(light["over_light"]) == 1
        ratio = int(full["peak_bytes"]) / int(light["peak_bytes"])
        assert float(full["over_light"]) == pytest.approx(ratio, rel=1e-4)


def test_what_runs_out_of_memory_when_weighed_is_a_row_that_says_so(monkeypatch, tmp_path):
    def greedy(model, **of):
        raise torch.OutOfMemoryError

    light = relevance.STORAGES[relevance.LIGHT]
    monkeypatch.setattr(relevance, "STORAGES", {relevance.LIGHT: light, relevance.REFERENCE: greedy})
    rows = measure(tmp_path, relevance.explanation_memory("small", CPU))["explanation_memory"]
    assert [row["note"] for row in rows] == ["", "not measured: more memory than this GPU has"] * 2
    assert "peak_bytes" not in rows[1] and "over_light" not in rows[1]


def test_a_gpu_that_an_error_broke_costs_rows_and_not_the_table(monkeypatch):
    """Giving memory back raises then too, and that went through everything: the rows before were lost."""

    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, broken)
    assert not timing.let_go()


def test_explaining_is_timed_in_each_arithmetic():
    rows = [task.row | task.measure() for task in relevance.explanation_time("small", 1, CPU, 1)]
    assert [row["arithmetic"] for row in rows] == ["float32", "tf32"]
    assert all(row["explain_ms"] > 0 for row in rows)
    assert torch.get_float32_matmul_precision() == "highest"
