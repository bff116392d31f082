"""`python -m bench training`: baselines that compute the same function, numbers that follow from what was counted."""

import argparse
import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from bench.common import tasks, timing
from bench.common.peers import naive_attention
from bench.common.record import read_run
from bench.training import measurement, steps
from bench.training.baseline_model import BaselineModel
from bench.training.flops import needed_flops, useful_flops
from bench.training.measurement import family, profile_steps, work
from bench.training.steps import Case, random_clips, training_step
from istvt import ISTVT, ISTVTConfig, preset

TINY = ISTVTConfig(
    frames=3, image_size=40, dim=12, heads=2, head_dim=5, depth=2, mlp_dim=16, backbone_dims=(4, 4, 6, 8)
)


PUBLISHED = {"position_embedding": "frames", "layer_norm_eps": 1e-5, "head_norm": True}


@pytest.mark.parametrize("attend", [naive_attention, scaled_dot_product_attention])
@pytest.mark.parametrize("change", [{}, {"self_subtract": False}, {"attention": "spatial_only"}, PUBLISHED], ids=str)
def test_every_baseline_computes_the_function_and_the_gradients_of_the_model(attend, change):
    config = replace(TINY, **change)
    torch.manual_seed(0)
    model = ISTVT(config, backend="reference").double().train()
    baseline = BaselineModel(config, attend).double().train()
    baseline.load_state_dict(model.state_dict())
    clips = torch.rand(2, 3, 3, 40, 40, dtype=torch.float64) * 2 - 1
    logits = [m(clips) for m in (model, baseline)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-9, atol=1e-11)
    for out in logits:
        out.square().sum().backward()
    of_model = dict(model.named_parameters())
    for name, parameter in baseline.named_parameters():
        torch.testing.assert_close(parameter.grad, of_model[name].grad, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize("attention", ["temporal_first", "spatial_only"])
def test_needed_work_is_what_the_flop_counter_sees_the_model_do(attention):
    config = replace(preset("small"), attention=attention)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ISTVT(config, backend="reference").eval()(torch.zeros(1, 6, 3, 64, 64))
    assert needed_flops(config) == 3 * counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        BaselineModel(config, naive_attention).eval()(torch.zeros(1, 6, 3, 64, 64))
    assert useful_flops(config) == 3 * counter.get_total_flops()


def test_the_last_block_leaves_out_what_the_logit_does_not_read():
    """The numbers of the closed formula: keys and values of all tokens in time, in space one query, one MLP token."""
    for name, needed in (("small", 186989472), ("seed", 1415365392432), ("published", 1382555747568)):
        assert needed_flops(preset(name)) == needed < useful_flops(preset(name))


def test_padding_of_the_head_dimension_is_not_counted_as_useful():
    assert useful_flops(replace(TINY, head_dim=5)) < useful_flops(replace(TINY, head_dim=16))
    assert useful_flops(preset("seed")) == pytest.approx(3 * 2 * 252.09e9, rel=1e-3)  # 235.8 G layers, 16.3 G attention


@pytest.fixture
def tiny(monkeypatch):
    """A model that a busy CPU trains in no time, under the name of the preset small."""
    monkeypatch.setattr(steps, "preset", lambda name: TINY)


@pytest.mark.parametrize("method", ["naive eager", "eager SDPA", "this project"])
def test_a_step_of_every_eager_method_trains(method, tiny):
    case = Case("small", "full", "bfloat16", method)
    step = training_step(case, random_clips(case.config, 2, torch.device("cpu")), "eager")
    values = [step().item() for _ in range(12)]
    if method == "this project":  # it hands out the running sum of the losses of all clips
        values = [(after - before) / 2 for before, after in itertools.pairwise([0.0, *values])]
    assert 0 < values[-1] < values[0] < 2


def arguments(folder, **options):
    defaults = {
        "preset": None, "attention": ["full"], "precision": ["float32"], "method": ["this project", "naive eager"],
        "batch": 1, "execution": None, "milliseconds": 10, "budget": math.inf, "trace": None, "output": folder,
        "commit": None,
    }  # fmt: skip
    return argparse.Namespace(**(defaults | options))


def run(given):
    return tasks.run("training", measurement, given)


@pytest.mark.gpu
@pytest.mark.parametrize("method", steps.METHODS)
def test_on_a_gpu_every_method_is_measured_with_its_memory_and_its_utilization(tmp_path, method):
    options = {"preset": ["small"], "precision": ["bfloat16"], "method": [method], "batch": 2}
    assert run(arguments(tmp_path, **options)) == 0
    (row,) = read_run(tmp_path).tables["training"]
    assert int(row["reserved_bytes"]) >= int(row["peak_bytes"]) > 0
    assert 0 < float(row["utilization_measured_peak"]) < 1
    assert float(row["needed_measured_peak"]) < float(row["utilization_measured_peak"])


@pytest.mark.gpu
def test_on_a_gpu_replaying_a_step_takes_no_less_memory_than_running_it():
    """Measured while graphs were replayed, which allocates nothing, a step seemed to need its weights and no more."""
    both = [Case("small", "full", "bfloat16", method) for method in steps.PROJECT]
    run, replayed = (measurement.measure(case, 8, "compile", 0.05) for case in both)
    for key in ("peak_bytes", "reserved_bytes"):
        assert replayed[key] > 0.9 * run[key], key


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_small_model_runs_on_a_cpu_and_leaves_rows_families_and_a_trace(tmp_path, no_gpu, tiny, capsys):
    folder = tmp_path / "run"
    assert run(arguments(folder, trace=tmp_path / "traces")) == 0
    tables = read_run(folder).tables
    assert [row["method"] for row in tables["training"]] == ["this project", "naive eager"]
    for row in tables["training"]:
        assert float(row["clips_per_second"]) == pytest.approx(1000 / float(row["step_ms"]), rel=1e-3)
        assert not row.keys() & {"utilization_data_sheet", "peak_bytes"}  # of a GPU; nothing is made up for a CPU
    for method in ("this project", "naive eager"):
        shares = [float(row["share"]) for row in tables["training_families"] if row["method"] == method]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
    trace = json.loads((tmp_path / "traces" / "small-full-float32-naive_eager.json").read_text())
    assert any("convolution" in event.get("name", "") for event in trace["traceEvents"])
    assert "clips_per_second" in capsys.readouterr().out


def test_rows_that_cannot_be_measured_stay_empty_and_say_why(tmp_path, no_gpu, monkeypatch):
    """After an illegal access every call of CUDA fails, giving memory back too: once that ended the whole run."""
    broken = []

    def measure(case, *rest):
        if case.method == "this project":
            raise torch.OutOfMemoryError("CUDA out of memory")
        broken.append(True)
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered\nmore lines")

    monkeypatch.setattr(measurement, "measure", measure)
    monkeypatch.setattr(timing, "let_go", lambda: not broken)
    chosen = ["this project", "naive eager", "eager SDPA"]
    assert run(arguments(tmp_path, method=chosen)) == 1
    rows = read_run(tmp_path).tables["training"]
    assert [row["note"] for row in rows] == [
        "not measured: more memory than this GPU has",
        "not measured: RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered",
        "not measured: an earlier error broke the GPU's context",
    ]
    assert "step_ms" not in rows[0]


def test_rows_that_a_killed_run_never_reached_are_there_and_say_so(tmp_path, no_gpu, monkeypatch):
    def measure(case, *rest):
        if case.method == "naive eager":
            raise KeyboardInterrupt
        return {"step_ms": 1.0, "clips_per_second": 1000.0}

    monkeypatch.setattr(measurement, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        run(arguments(tmp_path))
    rows = read_run(tmp_path).tables["training"]
    assert [(row["method"], row["note"]) for row in rows] == [
        ("this project", ""), ("naive eager", "not measured: the run was stopped before")
    ]  # fmt: skip


def test_a_step_that_cannot_be_profiled_is_measured_all_the_same(tmp_path, no_gpu, tiny, monkeypatch):
    monkeypatch.setattr(measurement, "profile_steps", lambda *_, **__: 1 / 0)
    assert run(arguments(tmp_path, method=["naive eager"])) == 0
    (row,) = read_run(tmp_path).tables["training"]
    assert float(row["step_ms"]) > 0
    assert row["note"] == "no profile: ZeroDivisionError: division by zero"


def test_on_a_cpu_nothing_is_compiled_unless_asked_for(tmp_path, no_gpu, monkeypatch):
    """The compiled peer took minutes of a run that is there to show that all of it works."""
    monkeypatch.setattr(measurement, "measure", lambda *_: {"step_ms": 1.0})
    assert run(arguments(tmp_path, method=None)) == 0
    methods = {row["method"] for row in read_run(tmp_path).tables["training"]}
    assert methods == {"this project", "naive eager", "eager SDPA"}


def test_when_the_budget_is_used_up_the_rest_is_named_and_not_begun(tmp_path, no_gpu, monkeypatch):
    monkeypatch.setattr(measurement, "measure", lambda *_: pytest.fail("nothing may start"))
    assert run(arguments(tmp_path, budget=1e-9)) == 1
    notes = {row["note"] for row in read_run(tmp_path).tables["training"]}
    assert notes == {"not measured: the time was used up"}


def test_the_promised_comparison_is_measured_first():
    first = list(steps.ordered_cases(("seed", "published"), steps.PRECISIONS, steps.METHODS, steps.ATTENTIONS))[:8]
    assert {(case.preset, case.precision) for case in first} == {("seed", "bfloat16")}
    assert {case.attention for case in first} == {"full", "spatial_only"}
    assert [(case.attention, case.method) for case in first[:5]] == [
        ("full", "this project"), ("full", "naive eager"), ("full", steps.GRAPHS),
        ("spatial_only", "this project"), ("full", "compiled SDPA"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tensor_core_forward", "temporal attention"),
        ("fp32_backward", "temporal attention"),
        ("spatial_backward_keys", "spatial attention"),
        ("layer_norm_difference_forward", "LayerNorm and difference"),
        ("nvjet_tst_192x192_64x4_1x2_h_bz_coopB_TNT", "matrix product"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix product"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_tf32f32", "convolution"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_s1688dgrad>", "convolution"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<96>>", "fused attention of PyTorch"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma", "fused attention of PyTorch"),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float>", "softmax"),
        ("triton_poi_fused_gelu_3", "compiled pointwise and reduction"),
        ("triton_tem_fused_mm_t_4", "matrix product"),
        ("triton_per_fused_native_layer_norm_backward_11", "compiled pointwise and reduction"),
        ("triton_red_fused__native_batch_norm_legit_functional_14", "compiled batch normalization and pooling"),
        ("triton_poi_fused_max_pool2d_with_indices_backward_4", "compiled batch normalization and pooling"),
        ("void at::native::GammaBetaBackwardCUDAKernelTemplate<float, float, 32u>", "normalization"),
        ("void at::native::lpnorm_cleanup<float>", "optimizer"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void at::native::vectorized_elementwise_kernel<4, AddFunctor>", "pointwise and reduction"),
        ("Memcpy DtoD (Device -> Device)", "copy and cast"),
        ("void at::native::elementwise_kernel<128, direct_copy_kernel_cuda>", "copy and cast"),
        ("an unknown kernel", "other"),
    ],
)
def test_kernels_are_counted_to_the_family_that_their_name_says(name, expected):
    assert family(name) == expected


def test_a_profile_finds_where_the_time_goes():
    x = torch.randn(400, 400)
    parts = profile_steps(lambda: x @ x @ x)
    assert parts[0]["family"] == "matrix product"
    assert parts[0]["share"] > 0.5


def test_a_row_that_was_not_measured_holds_counted_work_and_nothing_else(tmp_path, no_gpu, monkeypatch):
    monkeypatch.setattr(measurement, "measure", lambda *_: 1 / 0)
    assert run(arguments(tmp_path, method=["this project"])) == 1
    (row,) = read_run(tmp_path).tables["training"]
    assert set(row) == {
        "preset", "attention", "precision", "method", "batch", "flops_per_clip", "needed_flops_per_clip", "note"
    }  # fmt: skip
    assert row["note"] == "not measured: ZeroDivisionError: division by zero"
    assert int(row["flops_per_clip"]) == work(Case("small", "full", "float32", "this project"))["flops_per_clip"]
