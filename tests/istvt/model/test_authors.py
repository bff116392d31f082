"""Conversion of the authors' state dicts: the model computes the same, and a round trip is bit for bit."""

import pickle
from dataclasses import replace

import authors_network as theirs
import pytest
import torch

from dataloading.errors import InputError
from istvt import ISTVT, ISTVTConfig, preset
from istvt.model.authors import authors_config, load_authors, save_authors, to_authors
from istvt.model.checkpoint import CheckpointInfo, load_model, save_model

IGNORED = 4  # tensors of the later flows of Xception


def saved(tmp_path, state):
    torch.save(state, tmp_path / "authors.pth")
    return tmp_path / "authors.pth"


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_converted_model_computes_what_their_network_does(tmp_path, dtype):
    model, ignored = load_authors(saved(tmp_path, theirs.random_state()), theirs.HEADS)
    model = model.to(dtype)
    state = {name: value.to(dtype) for name, value in theirs.random_state().items()}
    assert len(ignored) == IGNORED
    assert not model.training
    features = torch.randn(3, theirs.FRAMES, theirs.SIDE**2, theirs.DIM, dtype=dtype)
    tokens = theirs.tokens_of(state, features)
    model.backbone.forward = lambda frames: features.transpose(2, 3).reshape(-1, theirs.DIM, theirs.SIDE, theirs.SIDE)
    clips = torch.zeros(3, theirs.FRAMES, 3, 28, 28, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(model.tokenize(clips), tokens)
        for index in range(theirs.DEPTH):
            found, expected = model.blocks[index](tokens), theirs.block(state, index, tokens)
            assert (found - expected).norm() <= 1e-6 * expected.norm()
            tokens = expected
        expected = theirs.logits_of(state, theirs.tokens_of(state, features))
        assert (model(clips) - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize(
    "change",
    [{"layer_norm_eps": 1e-6}, {"head_norm": False}, {"position_embedding": "all"}],
    ids=lambda c: next(iter(c)),
)
def test_every_field_that_sets_their_network_apart_matters(tmp_path, change):
    """Without any of them the logits differ by far more than rounding, so the agreement above is of all three."""
    model, _ = load_authors(saved(tmp_path, theirs.random_state()), theirs.HEADS)
    other = ISTVT(replace(model.config, **change))
    weights = {name: value for name, value in model.state_dict().items() if name in other.state_dict()}
    if "position_embedding" in change:
        weights["position_embedding"] = torch.cat([weights["position_embedding"][:1], weights["position_embedding"]])
    other.load_state_dict(weights)
    clips = 2 * torch.rand(3, theirs.FRAMES, 3, 28, 28, dtype=torch.float64) - 1
    with torch.no_grad():
        logits, others = model.double()(clips), other.double().eval()(clips)
    assert (logits - others).norm() > 1e-6 * logits.norm()


def test_there_and_back_is_bit_for_bit(tmp_path):
    state = theirs.random_state()
    model, ignored = load_authors(saved(tmp_path, state), theirs.HEADS)
    save_model(tmp_path / "ours.safetensors", model, CheckpointInfo(model.config))
    loaded, info = load_model(tmp_path / "ours.safetensors")
    assert info.config == model.config
    save_authors(tmp_path / "again.pth", loaded)
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert equal(again, {name: value for name, value in state.items() if name not in ignored})
    assert equal(load_authors(tmp_path / "again.pth", theirs.HEADS)[0].state_dict(), loaded.state_dict())


@pytest.mark.parametrize(
    "wrap", [lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}], ids=["dict", "parallel"]
)
def test_a_state_dict_of_data_parallel_or_inside_another_dict_is_read(tmp_path, wrap):
    state = theirs.random_state()
    model, _ = load_authors(saved(tmp_path, wrap(state)), theirs.HEADS)
    assert torch.equal(model.temporal_class_token, state["vit.temporal_token"].flatten())


def test_the_shapes_of_their_state_dict_are_those_of_the_published_preset():
    with torch.device("meta"):
        state = to_authors(ISTVT(preset("published")).state_dict())
    assert authors_config(state) == preset("published")
    assert state["vit.pos_embedding"].shape == (1, 6, 362, 728)
    assert state["vit.transformer.layers.11.0.fn.to_qk.weight"].shape == (1024, 728)
    assert state["vit.transformer.layers.11.2.fn.net.0.weight"].shape == (2912, 728)


class Code:
    def __reduce__(self):
        return (print, ("code of a checkpoint runs",))


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


LAYER = "vit.transformer.layers.1"
BAD = {
    "missing": (lambda s: without(s, f"{LAYER}.1.norm.bias"), f"{LAYER}.1.norm.bias is missing"),
    "missing, of the sizes": (lambda s: without(s, "vit.pos_embedding"), "vit.pos_embedding missing among xcep.model."),
    "unknown": (lambda s: s | {"vit.patch.weight": torch.zeros(2)}, "vit.patch.weight is not in this model"),
    "misshapen": (
        lambda s: s | {f"{LAYER}.0.fn.to_qk.weight": torch.zeros(3, 12)},
        f"{LAYER}.0.fn.to_qk.weight has shape (3, 12), not (20, 12)",
    ),
    "of whole numbers": (
        lambda s: s | {"vit.mlp_head.1.bias": torch.zeros(1, dtype=torch.int64)},
        "vit.mlp_head.1.bias is of torch.int64, not torch.float32",
    ),
    "no square": (
        lambda s: s | {"vit.pos_embedding": torch.zeros(1, 4, 4, 12)},
        "4 positions, not a class token and a",
    ),
    "flat": (lambda s: s | {"vit.pos_embedding": torch.zeros(4)}, "vit.pos_embedding has shape (4,), not 4 dimensions"),
    "empty": (lambda s: s | {"vit.pos_embedding": torch.zeros(1, 0, 5, 12)}, "model.frames is 0"),
    "huge": (
        lambda s: s | {"xcep.model.conv1.weight": torch.zeros(10**12, 0, 3, 3)},
        "model.backbone_dims is (1000000000000, 3, 4, 5)",
    ),
    "many": (lambda s: {f"x{i}": torch.zeros(1) for i in range(9)}, "missing among x0, x1, x2, ..."),
    "list": (lambda s: [1, 2], "expected a state dict of tensors"),
    "numbers": (lambda s: {"vit.space_token": 3}, "expected a state dict of tensors"),
    "by number": (lambda s: {0: torch.zeros(1)}, "expected a state dict of tensors"),
    "code": (lambda s: s | {"vit.space_token": Code()}, "not a readable checkpoint"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_none_of_theirs_is_one_sentence_with_the_file_and_the_first_keys(tmp_path, capsys, name):
    change, says = BAD[name]
    path = saved(tmp_path, change(theirs.random_state()))
    with pytest.raises(InputError) as error:
        load_authors(path, theirs.HEADS)
    message = str(error.value)
    assert message.startswith(f"authors' checkpoint {path}: ")
    assert says in message
    assert len(message) < 600
    assert "\n" not in message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"no pickle at all", pickle.dumps(Code())])
def test_a_file_that_cannot_be_read_is_one_sentence_and_no_code_of_it_runs(tmp_path, capsys, content):
    (tmp_path / "authors.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"authors\.pth: not a readable checkpoint; expected a \.pth, \.pt or"):
        load_authors(tmp_path / "authors.pth")
    assert capsys.readouterr().out == ""
    with pytest.raises(
        InputError, match=r"absent\.pth: no such file; expected a state dict of the ISTVT authors' code"
    ):
        load_authors(tmp_path / "absent.pth")


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_that_do_not_divide_the_projections_are_one_sentence(tmp_path, heads):
    with pytest.raises(InputError, match=f"heads is {heads}, not a divisor of the 10 rows of vit.transformer.layers.0"):
        load_authors(saved(tmp_path, theirs.random_state()), heads)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attention": "parallel"}, "model.attention is 'parallel'; expected 'temporal_first'"),
        ({"self_subtract": False}, "model.self_subtract is False; expected True"),
        ({}, "model.position_embedding is 'all'; expected 'frames'"),
        ({"position_embedding": "frames"}, "model.layer_norm_eps is 1e-06; expected 1e-05"),
        ({"position_embedding": "frames", "layer_norm_eps": 1e-5}, "model.head_norm is False; expected True"),
    ],
)
def test_a_model_that_is_not_their_network_cannot_be_theirs(tmp_path, change, says):
    config = ISTVTConfig(frames=2, image_size=28, dim=12, heads=2, depth=1, mlp_dim=8, backbone_dims=(2, 3, 4, 5))
    with pytest.raises(InputError) as error:
        save_authors(tmp_path / "theirs.pth", ISTVT(replace(config, **change)))
    assert says in str(error.value)
    assert not (tmp_path / "theirs.pth").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    model, _ = load_authors(saved(tmp_path, theirs.random_state()), theirs.HEADS)
    with pytest.raises(InputError, match=r"nowhere/theirs\.pth: cannot be written \("):
        save_authors(tmp_path / "nowhere" / "theirs.pth", model)
