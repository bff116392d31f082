"""Attention backends are interchangeable, and the last block computes only what the classifier reads."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import kernels
from istvt import ISTVT, ISTVTConfig
from istvt.config import ATTENTIONS
from istvt.model import attention
from istvt.model.block import BlockCaptures

TINY = ISTVTConfig(frames=3, grid=(2, 3), dim=24, heads=2, head_dim=11, depth=2, mlp_dim=16)

TRITON_AGAINST_REFERENCE = """
import json, sys
import torch
from istvt import ISTVT, ISTVTConfig
from istvt.model.block import BlockCaptures
import kernels

def compare(config):
    torch.manual_seed(0)
    model = ISTVT(config)
    tokens = torch.randn(1, config.frame_rows, config.positions, config.dim)

    def run(backend, whole):
        model.set_backend(backend).zero_grad()
        if whole:
            captures = [BlockCaptures(**{name: kernels.AttentionCapture() for name in ("temporal", "spatial", "joint")})
                     for _ in model.blocks]
            logits = model.classify(model.encode(tokens, captures))
        else:
            captures = []
            logits = model.classify(model.blocks[-1].class_token(model.blocks[0](tokens)))
        logits.sum().backward()
        named = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        for i, block in enumerate(captures):
            for kind in ("temporal", "spatial", "joint"):
                capture = getattr(block, kind)
                if capture.attention is not None:
                    named[f"{i} {kind} attention"], named[f"{i} {kind} gradient"] = capture.attention, capture.gradient
        return {"logits": logits.detach(), **named}

    errors = {}
    for whole in (True, False)[: 1 + (config.attention == "temporal_first")]:
        triton, reference = run("triton", whole), run("reference", whole)
        assert triton.keys() == reference.keys()
        for name, x in reference.items():
            errors[f"{name} {'whole' if whole else 'class token'}"] = (
                (triton[name] - x).norm() / x.norm().clamp_min(1e-6)
            ).item()
    if config.attention == "temporal_first":
        def logits(x):
            return model.classify(model.blocks[-1].class_token(model.blocks[0](x)))
        model.set_backend("triton").zero_grad()
        expected, found = logits(tokens), torch.compile(logits, fullgraph=True, backend="aot_eager")(tokens)
        found.sum().backward()
        errors["compiled logits"] = (found - expected).abs().max().item()
        weight = model.blocks[0].spatial.qkv.weight
        errors["compiled gradient"] = (weight.grad - triton["blocks.0.spatial.qkv.weight"]).abs().max().item()

        # The same attentions with biases and with a residual each: TimeSformer.
        from istvt.model.architectures import build
        from istvt.model.baselines.configs import TimeSformerConfig

        model = build(TimeSformerConfig(frames=2, image_size=16, patch=8, dim=22, heads=2, depth=1, mlp_dim=8))
        for attention in (model.blocks[0].temporal, model.blocks[0].spatial):
            torch.nn.init.normal_(attention.qkv.bias)
        clips, found = torch.rand(1, 2, 3, 16, 16), {}
        for backend in ("triton", "reference"):
            model.set_backend(backend).zero_grad()
            logits = model(clips)
            logits.sum().backward()
            found[backend] = {"logits": logits.detach()} | {n: p.grad.clone() for n, p in model.named_parameters()}
        for name, x in found["reference"].items():
            errors[f"timesformer {name}"] = ((found["triton"][name] - x).norm() / x.norm().clamp_min(1e-6)).item()
    return errors

print(json.dumps([compare(ISTVTConfig(**config)) for config in json.loads(sys.argv[1])]))
"""


CHANGES = {"temporal_first": {}, "joint": {"attention": "joint", "self_subtract": False}}


@pytest.fixture(scope="module")
def errors_in_the_interpreter():
    """Of the real kernels, in one process for all models: it takes seconds to start."""
    config = {"frames": 2, "grid": [1, 3], "dim": 22, "heads": 2, "head_dim": 11, "depth": 2, "mlp_dim": 8}
    run = subprocess.run(
        [sys.executable, "-c", TRITON_AGAINST_REFERENCE, json.dumps([config | change for change in CHANGES.values()])],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return dict(zip(CHANGES, json.loads(run.stdout), strict=True))


@pytest.mark.parametrize("name", CHANGES)
def test_the_model_computes_the_same_with_the_kernels_as_with_the_reference(name, errors_in_the_interpreter):
    """Logits, every gradient, every recorded attention; compiled too."""
    errors = errors_in_the_interpreter[name]
    assert len(errors) > 20
    assert {name: error for name, error in errors.items() if not error < 2e-5} == {}


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["temporal_first", "joint"])
@pytest.mark.parametrize("backend", ["triton", "sdpa", "xformers"])
def test_every_backend_agrees_with_the_reference_on_a_gpu(backend, variant):
    torch.manual_seed(0)
    config = ISTVTConfig(frames=3, grid=(5, 5), dim=182, heads=2, depth=2, mlp_dim=64, attention=variant)  # D = 91
    model = ISTVT(config).cuda()
    tokens = torch.randn(2, config.frame_rows, config.positions, config.dim, device="cuda")
    try:
        model.set_backend(backend)
    except ValueError as error:
        pytest.skip(str(error))
    found = {}
    for name in (backend, "reference"):
        model.set_backend(name).zero_grad()
        logits = model.classify(model.encode(tokens))
        logits.sum().backward()
        found[name] = torch.cat([logits.detach(), *(p.grad.flatten() for p in model.blocks.parameters())])
        with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
            found[f"{name} bfloat16"] = model.classify(model.encode(tokens)).float()
    assert (found[backend] - found["reference"]).norm() <= 1e-4 * found["reference"].norm()
    torch.testing.assert_close(found[f"{backend} bfloat16"], found["reference bfloat16"], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("variant", ATTENTIONS)
def test_sdpa_and_the_reference_agree_on_every_gradient(variant):
    config = replace(TINY, attention=variant)
    torch.manual_seed(0)
    model = ISTVT(config).double()
    tokens = torch.randn(2, config.frame_rows, config.positions, config.dim, dtype=torch.float64)
    gradients = {}
    for backend in ("sdpa", "reference"):
        model.set_backend(backend).zero_grad()
        model.classify(model.encode(tokens)).sum().backward()
        gradients[backend] = {n: p.grad.clone() for n, p in model.blocks.named_parameters()}
    torch.testing.assert_close(gradients["sdpa"], gradients["reference"])


def test_a_capture_is_the_same_under_every_backend():
    """SDPA cannot say what its attention was, so a capture must not depend on the backend of the output."""
    model = ISTVT(TINY).double()
    tokens = torch.randn(1, TINY.frame_rows, TINY.positions, TINY.dim, dtype=torch.float64)
    recorded = []
    for backend in ("sdpa", "reference"):
        captures = [BlockCaptures(kernels.AttentionCapture(), kernels.AttentionCapture()) for _ in model.blocks]
        model.set_backend(backend).classify(model.encode(tokens, captures)).sum().backward()
        recorded.append(
            [x for t in captures for capture in (t.temporal, t.spatial) for x in (capture.attention, capture.gradient)]
        )
    assert recorded[0][2].shape == (1, TINY.frame_rows, TINY.heads, TINY.positions, TINY.positions)
    torch.testing.assert_close(recorded[0], recorded[1])


def test_the_default_backend_is_triton_on_a_modern_gpu_and_sdpa_elsewhere(monkeypatch):
    cuda = torch.device("cuda")
    assert attention.resolve_backend("auto", torch.device("cpu")) == "sdpa"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert attention.resolve_backend("auto", cuda) == "triton"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert attention.resolve_backend("auto", cuda) == "sdpa"


def test_choosing_a_backend_does_not_break_the_graph_of_a_compiled_model(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=9, minor=0))

    def step(x):
        return x + 1 if attention.resolve_backend("auto", torch.device("cuda")) == "triton" else x - 1

    assert torch.compile(step, fullgraph=True, backend="eager")(torch.zeros(1)).item() == 1


def test_each_backend_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(attention, "interpreted", lambda: False)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setitem(sys.modules, "xformers", None)
    for backend, device, sentence in (
        ("triton", cpu, "attention backend triton needs a CUDA device, not cpu; use sdpa or reference"),
        ("triton", cuda, "attention backend triton needs compute capability 8.0 or later, and this GPU has 7.5;"),
        ("xformers", cpu, "attention backend xformers has no cpu operator; use sdpa or reference"),
        ("xformers", cuda, "attention backend xformers is not installed; pip install xformers"),
        ("flash", cpu, "attention backend is 'flash'; expected one of auto, triton, sdpa, xformers, reference"),
    ):
        with pytest.raises(ValueError) as error:
            attention.resolve_backend(backend, device)
        assert str(error.value).startswith(sentence)
    with pytest.raises(ValueError, match="attention backend is 'flash'"):  # before any clip is there
        ISTVT(TINY, backend="flash")


def test_neither_the_reference_nor_sdpa_runs_a_kernel_of_ours(monkeypatch):
    """On a GPU too: with them a fault in the kernels is looked for."""

    def refuse(*arguments, **named):
        raise AssertionError("a kernel's own function was called")

    names = ("spatial_attention", "temporal_attention")
    for name in (*names, *(f"{name}_packed" for name in names), "layer_norm_difference"):
        monkeypatch.setattr(kernels, name, refuse)
    tokens = torch.randn(1, TINY.frame_rows, TINY.positions, TINY.dim)
    for variant in ("temporal_first", "joint"):
        for backend in ("sdpa", "reference"):
            model = ISTVT(replace(TINY, attention=variant), backend=backend)
            model.classify(model.encode(tokens))
            with torch.autocast("cpu", torch.bfloat16):
                model.classify(model.encode(tokens))


def test_padding_the_projection_changes_no_number_and_no_parameter(monkeypatch):
    """Head dimension 11 becomes 16 by rows of zeros: same output, and the pads get no gradient to hand on."""
    model = ISTVT(TINY, backend="sdpa").double()
    spatial = model.blocks[0].spatial
    x = torch.randn(1, TINY.frame_rows, TINY.positions, TINY.dim, dtype=torch.float64)
    plain = spatial(x)
    expected = torch.autograd.grad(plain.square().sum(), list(spatial.parameters()))
    monkeypatch.setattr(spatial, "_padded_head_dim", lambda x: 16)
    qkv = spatial.project_qkv(x)
    assert qkv.shape[-1] == 16
    assert not qkv[..., 11:].any()
    padded = spatial(x)
    torch.testing.assert_close(padded, plain)
    torch.testing.assert_close(torch.autograd.grad(padded.square().sum(), list(spatial.parameters())), expected)
    assert spatial.qkv.weight.shape == (3 * 2 * 11, 24)


@pytest.mark.parametrize("self_subtract", [True, False])
@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_the_last_block_for_the_class_token_alone_gives_the_same_logits_and_gradients(backend, self_subtract):
    torch.manual_seed(0)
    model = ISTVT(replace(TINY, self_subtract=self_subtract), backend=backend).double()
    tokens = torch.randn(2, TINY.frame_rows, TINY.positions, TINY.dim, dtype=torch.float64)
    results = []
    for last in (model.blocks[-1], model.blocks[-1].class_token):
        model.zero_grad()
        leaf = tokens.clone().requires_grad_()
        logits = model.classify(last(model.blocks[0](leaf)))
        logits.square().sum().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append({"logits": logits.detach(), "tokens": leaf.grad, **gradients})
    assert any(name.startswith("blocks.1.mlp") for name in results[0])
    assert results[0].keys() == results[1].keys()
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


def test_the_last_block_saves_the_work_that_the_classifier_does_not_read():
    """Counted over linear layers, QK^T and AV, two floating-point operations a multiply-accumulate."""
    config = ISTVTConfig(frames=5, grid=(4, 4), dim=32, heads=2, depth=1, mlp_dim=48)
    block = ISTVT(config, backend="reference").blocks[0]
    frames, positions, dim, mlp = config.frame_rows, config.positions, config.dim, config.mlp_dim
    tokens = torch.randn(1, frames, positions, dim)

    def counted(function):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            function(tokens)
        return counter.get_total_flops()

    grid = frames * positions
    whole = grid * (2 * 4 * dim * dim + 2 * dim * mlp)  # four projections of each attention, two layers of the MLP
    whole += 2 * dim * positions * frames**2 + 2 * dim * frames * positions**2
    row = positions
    saved = grid * 2 * dim * dim + row * 2 * dim * dim + 2 * dim * positions * frames  # temporal: K, V; Q, out; row 0
    saved += row * 2 * dim * dim + 2 * dim * dim + 2 * dim * positions  # spatial, in row 0: K, V; Q, out; one query
    saved += 2 * dim * mlp  # one token
    assert counted(block) == 2 * whole
    assert counted(block.class_token) == 2 * saved
    assert saved < whole / 4
