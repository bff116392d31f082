"""The entry flow folded for evaluation; Xception weights of timm and Cadene files: loading, and one-sentence errors."""

import pytest
import torch
from safetensors.torch import save_file

from dataloading.errors import InputError
from istvt.model.checkpoint import load_backbone_weights
from istvt.model.xception import XceptionEntryFlow

DIMS, DIM = (4, 6, 8, 10), 12


def xception_like_state() -> dict[str, torch.Tensor]:
    """Random entry-flow weights, and the later parts that a whole Xception file also holds."""
    torch.manual_seed(1)
    state = {k: torch.randn_like(v.float()).to(v.dtype) for k, v in XceptionEntryFlow(DIMS, DIM).state_dict().items()}
    state |= {f"block{n}.rep.1.conv1.weight": torch.zeros(12, 1, 3, 3) for n in range(4, 13)}
    return state | {"conv3.conv1.weight": torch.zeros(2), "bn4.bias": torch.zeros(2), "fc.weight": torch.zeros(2, 2)}


def test_an_entry_flow_with_its_batch_normalizations_folded_computes_the_same():
    state = xception_like_state()
    state |= {name: value.abs() + 0.5 for name, value in state.items() if name.endswith("running_var")}
    backbone = XceptionEntryFlow(DIMS, DIM).eval()
    backbone.load_state_dict({name: value for name, value in state.items() if name in backbone.state_dict()})
    frames, plain = torch.randn(2, 3, 40, 56).double(), backbone.double()
    folded = plain.folded()
    torch.testing.assert_close(folded(frames), plain(frames), rtol=1e-9, atol=1e-9)
    assert not [name for name, part in folded.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert len([name for name, part in plain.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]) == 11


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_a_timm_file_loads_and_the_later_flows_are_ignored_by_name(tmp_path, wrap):
    state = xception_like_state()
    torch.save(wrap(state), tmp_path / "xception.pth")
    backbone = XceptionEntryFlow(DIMS, DIM)
    ignored = load_backbone_weights(backbone, tmp_path / "xception.pth")
    assert len(ignored) == 12
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


def test_a_cadene_file_with_pointwise_weights_as_matrices_and_without_batch_counts_loads(tmp_path):
    state = {k: v for k, v in xception_like_state().items() if "num_batches_tracked" not in k}
    flat = {k: v[:, :, 0, 0].contiguous() if "pointwise" in k else v for k, v in state.items()}
    flat["last_linear.weight"] = flat.pop("fc.weight")
    save_file(flat, tmp_path / "xception.safetensors")
    backbone = XceptionEntryFlow(DIMS, DIM)
    load_backbone_weights(backbone, tmp_path / "xception.safetensors")
    assert torch.equal(backbone.block2.rep[1].pointwise.weight, state["block2.rep.1.pointwise.weight"])


def test_missing_unknown_and_misshapen_tensors_are_named_together(tmp_path):
    state = xception_like_state()
    del state["bn1.weight"]
    state["conv2.weight"] = torch.zeros(1, 2, 3, 3)
    state["stem.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "xception.pth")
    with pytest.raises(InputError) as error:
        load_backbone_weights(XceptionEntryFlow(DIMS, DIM), tmp_path / "xception.pth")
    message = str(error.value)
    assert "bn1.weight is missing" in message
    assert "stem.weight is not in this model" in message
    assert "conv2.weight has shape (1, 2, 3, 3), not (6, 4, 3, 3)" in message


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all"])
def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pth: not a readable checkpoint"):
        load_backbone_weights(XceptionEntryFlow(DIMS, DIM), tmp_path / "x.pth")
