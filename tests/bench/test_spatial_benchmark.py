"""The benchmarks of both attentions on a CPU, with clocks that stand still: what they compare, count and write."""

from functools import partial

import pytest
import torch

from bench.__main__ import main
from bench.common import peers, record, tasks, timing
from bench.common.record import read_run
from bench.kernels import spatial, temporal, tune
from kernels.common.launch import tile
from kernels.spatial import configs
from kernels.spatial.reference import spatial_attention

SHAPE = spatial.Shape("spatial", 1, 2, 9)
ON_CPU = {"naive", "sdpa math"}


@pytest.fixture
def without_a_gpu(monkeypatch):
    """Everything but the time and the memory of a call, which take a GPU, is real."""

    def timed(function, **arguments):
        function()
        return {"microseconds": 10.0, "p20": 9.0, "p80": 11.0}

    def weighed(function, device="cuda"):
        function()
        return 1024

    monkeypatch.setattr(timing, "time_call", timed)
    monkeypatch.setattr(timing, "peak_bytes", weighed)
    monkeypatch.setattr(timing, "write_bandwidth", lambda: 4e12)
    monkeypatch.setattr(timing, "copy_bandwidth", lambda: 4e12)
    monkeypatch.setattr(timing, "let_go", lambda: True)
    monkeypatch.setattr(tasks, "compile_ahead", lambda calls, seconds: len([call() for call in calls]))
    monkeypatch.setattr(peers, "DEVICE", "cpu")
    monkeypatch.setattr(peers, "PEERS", {name: peer for name, peer in peers.PEERS.items() if "flex" not in name})


@pytest.mark.parametrize("head_dim", [64, 91])
def test_all_contenders_compute_the_same_function_of_the_packed_projection(head_dim):
    scale = head_dim**-0.5
    qkv = torch.randn(1, 2, 9, 3, 8, head_dim)
    expected = spatial_attention(*qkv.unbind(3), scale=scale)
    found = {c.name: c for c in spatial.contenders(head_dim)}
    assert found["ours"].width == (64 if head_dim == 64 else 96)
    compared = 0
    for name, contender in found.items():
        if not any(name.startswith(one) for one in (*ON_CPU, "ours")):
            continue
        padded = torch.nn.functional.pad(qkv, (0, contender.width - head_dim))
        out = contender.function(padded, scale=scale)
        assert out.is_contiguous() or name.startswith("ours")  # on a CPU that is the reference
        torch.testing.assert_close(out[..., :head_dim], expected)
        compared += 1
    assert compared >= 3


def test_padding_by_copies_gives_a_peer_a_width_that_it_takes_and_cuts_the_output():
    widths = []

    def peer(q, k, v, scale):
        widths.append(q.shape[-1])
        return peers.naive_attention(q, k, v, scale)

    q, k, v = torch.randn(2, 1, 5, 3, 8, 91).unbind(3)
    out = peers.over_positions(partial(peers.padded_by_copies, peer), q, k, v, scale=0.1)
    assert widths == [96]
    torch.testing.assert_close(out, spatial_attention(q, k, v, scale=0.1))


def test_the_shapes_are_the_papers_and_joint_attention_is_one_row_of_all_tokens():
    assert spatial.PAPER == spatial.PAPER_SHAPES[0] == ("spatial", 8, 7, 362)
    assert spatial.OTHER_SHAPES[-1] == ("joint", 1, 1, 7 * 362)


def tasks_at(head_dim):
    return [task for task in spatial.attention([SHAPE], torch.float32, 1) if task.row["head_dim"] == head_dim]


def test_useful_work_counts_two_products_forward_and_five_backward_at_the_unpadded_head(without_a_gpu):
    rows = {task.row["pass"]: task.measure() for task in tasks_at(91) if task.row["contender"] == "ours"}
    product = 2 * 2 * 8 * 9**2 * 91
    for which, count in (("forward", 2), ("backward", 5), ("both", 7)):
        assert rows[which]["teraflops"] == pytest.approx(count * product / 10e-6 / 1e12)


def test_a_peer_that_cannot_run_backward_twice_costs_its_row_and_not_the_table(without_a_gpu):
    """Compiled FlexAttention refuses to keep its graph, and all that came after it was never measured."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.calls = 0
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            ctx.calls += 1
            if ctx.calls > 1:
                raise RuntimeError("This backward function was compiled with non-empty donated buffers")
            return gradient

    contender = peers.Contender("a peer", 8, lambda qkv, scale: Once.apply(qkv)[:, :, :, 0])
    calls = contender.calls(SHAPE[1:], 8, torch.float32)
    calls["backward"]()
    with pytest.raises(RuntimeError, match="donated buffers"):
        calls["backward"]()
    calls["both"]()


def test_ours_are_measured_before_peers_and_what_compiles_for_each_shape_last_at_the_papers_alone():
    for ordered in (
        peers.ordered(spatial.attention([*spatial.PAPER_SHAPES, *spatial.OTHER_SHAPES], torch.bfloat16, 1)),
        peers.ordered(temporal.attention([*temporal.PAPER_SHAPES, *temporal.OTHER_SHAPES], torch.bfloat16, 1)),
    ):
        names = [task.row["contender"] for task in ordered]
        ours = [name for name in names if name.startswith("ours")]
        assert names[: len(ours)] == ours
        flex = [task.row for task in ordered[names.index("flex compiled") :]]
        assert {row["contender"] for row in flex} == {"flex compiled"}
        assert {(row["positions"], row["dtype"]) for row in flex} == {(362, "bfloat16")}
        assert {row["clips"] for row in flex} <= {1, 8}


def test_the_capture_rows_hold_time_and_floor(without_a_gpu):
    rows = [task.row | task.measure() for task in spatial.capture(SHAPE, 64, torch.float32, 1)]
    assert [row["pass"] for row in rows] == ["forward", "backward"]
    emitted = 4 * 1 * 2 * 8 * 81
    assert {row["emitted_bytes"] for row in rows} == {emitted}
    assert rows[0]["floor_microseconds"] == pytest.approx(1e6 * emitted / 4e12)


@pytest.fixture
def a_gpu(without_a_gpu, monkeypatch):
    """A command finds a GPU, and its numbers, and its tensors are on the CPU all the same."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    found = {"device": "a GPU", "kind": "GPU", "date": "2020", "commit": None, "versions": {}}
    monkeypatch.setattr(record, "environment", lambda commit: found)


def test_the_command_writes_its_tables_and_every_contender_is_a_row_a_pass_that_is_timed_or_says_why_not(
    a_gpu, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(spatial, "PAPER_SHAPES", [SHAPE])
    monkeypatch.setattr(spatial, "OTHER_SHAPES", [])
    monkeypatch.setattr(spatial, "CAPTURE_SHAPES", [SHAPE])
    few = {"positions": (3, 5, 9, 17, 33), "rows": 1, "heads": 1, "head_dim": 8, "dtype": "float32"}
    monkeypatch.setattr(spatial, "ON_GPU", few)
    weigh = spatial.memory
    monkeypatch.setattr(spatial, "memory", lambda sizes, device: weigh(sizes, "cpu"))
    assert main(["spatial", "--dtype", "float32", "--output", str(tmp_path)]) == 0
    tables = read_run(tmp_path).tables
    assert {row["head_dim"] for row in tables["spatial"]} == {"64", "91", "128"}
    assert {row["pass"] for row in tables["spatial_capture"]} == {"forward", "backward"}
    assert {row["positions"] for row in tables["spatial_memory"]} == {"3", "5", "9", "17", "33"}
    assert "teraflops" in capsys.readouterr().out
    rows = [row for row in tables["spatial"] if row["head_dim"] == "91"]
    assert len(rows) == 3 * len(spatial.contenders(91))
    assert {"ours", "ours, unpadded", *ON_CPU} <= {row["contender"] for row in rows if row["microseconds"]}
    assert all(bool(row["microseconds"]) != row["note"].startswith("not measured: ") for row in rows)
    assert all(row["note"] for row in rows if row["contender"] == "xformers")


def test_the_command_of_temporal_attention_writes_its_tables(a_gpu, monkeypatch, tmp_path):
    for module in (peers, temporal):
        monkeypatch.setattr(module, "HEADS", 2)
        monkeypatch.setattr(module, "POSITIONS", 5)
    monkeypatch.setattr(temporal, "PAPER_SHAPES", [(1, 2)])
    monkeypatch.setattr(temporal, "OTHER_SHAPES", [])
    assert main(["temporal", "--dtype", "float32", "--output", str(tmp_path)]) == 0
    tables = read_run(tmp_path).tables
    assert {row["mode"] for row in tables["temporal"]} == {"telescoped", "fused", "off"}
    ours = {row["pass"]: float(row["floor_microseconds"]) for row in tables["temporal"] if row["contender"] == "ours"}
    assert ours["backward"] / ours["forward"] == pytest.approx(7 / 4)
    assert {row["contender"] for row in tables["layer_norm_difference"]} == {"ours", "eager"}
    assert {row["pass"] for row in tables["layer_norm_difference"]} == {"forward", "backward"}


def test_tuning_says_why_a_candidate_is_left_out_and_leaves_the_tables_alone(a_gpu, monkeypatch, tmp_path, capsys):
    """Launches are replaced: one candidate is wrong, one does not run, and the last of the others is the fastest."""
    before = {name: dict(table) for name, table in vars(configs).items() if name.endswith("_32")}
    tried = [tile(block_m, 16, 4, 1) for block_m in (64, 32, 16, 128)]
    monkeypatch.setattr(tune, "candidates", lambda kind, bits: tried)
    monkeypatch.setattr(tasks, "compile_ahead", lambda calls, seconds: 0)

    def calls(function, shape, dtype):
        def call():
            block_m = configs.FORWARD_32.get(0, [(128, tile(1, 1, 1, 1))])[0][1].kwargs["BLOCK_M"]
            if block_m == 32:
                raise RuntimeError("out of resource: shared memory")
            return torch.full((3, 64), 2.0 if block_m == 16 else 1.0)

        return {"forward": call, "backward": lambda: 1 / 0}

    spent = iter([30.0, 20.0])
    monkeypatch.setattr(peers, "calls", calls)
    monkeypatch.setattr(timing, "time_call", lambda *a, **k: {"microseconds": next(spent)})
    words = ["tune", "spatial", "--dtype", "float32", "--head-dims", "64", "--output", str(tmp_path)]
    assert main(words) == 0
    rows = {row["config"]: row for row in read_run(tmp_path).tables["tune"] if row["table"] == "FORWARD_32"}
    slow, refused, wrong, fast = (rows[str(config)] for config in tried)
    assert (slow["microseconds"], fast["microseconds"]) == ("30", "20")
    assert refused["note"].endswith("RuntimeError: out of resource: shared memory")
    assert wrong["note"].endswith("other numbers than those of the present config")
    assert f"FORWARD_32, D=64: {tried[-1]}, 20.0 us" in capsys.readouterr().out
    assert {name: dict(table) for name, table in vars(configs).items() if name.endswith("_32")} == before
