"""Compiled, with channels last and with recomputed blocks a detector computes what it computes plainly."""

from dataclasses import replace

import pytest
import torch

from dataloading.errors import InputError
from istvt.config import TrainingSettings
from istvt.model.architectures import ARCHITECTURES, build, model_preset
from istvt.training.compile import accelerate

QUICK = ("cnn_lstm", "c3d", "timesformer")
OTHERS = [name for name in ARCHITECTURES if name not in ("istvt", *QUICK)]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in OTHERS)])
def test_a_detector_trains_compiled_as_it_does_eagerly(name):
    """3-D convolutions were refused the memory format of 2-D ones, and recurrent networks were compiled as well."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    config = model_preset(name)
    plain, compiled = build(config).train(), build(config).train()
    compiled.load_state_dict(plain.state_dict())
    recomputed = bool(compiled.equal_blocks())
    settings = TrainingSettings(execution="compile", activation_checkpointing=recomputed)
    accelerate(compiled, settings, backend="eager")
    clips = torch.rand(2, config.frames, 3, config.image_size, config.image_size) * 2 - 1
    logits = []
    for model in (plain, compiled):
        torch.manual_seed(1)  # of dropout
        logits.append(model(clips))
        logits[-1].sum().backward()
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)
    # A logit leaves a decoder of masks without gradients.
    gradients = [[p.grad for p in model.parameters() if p.grad is not None] for model in (plain, compiled)]
    norms = [torch.nn.utils.get_total_norm(of_model) for of_model in gradients]
    assert len(gradients[0]) == len(gradients[1])
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-3, atol=0)


def test_blocks_that_are_not_there_cannot_be_recomputed():
    settings = replace(TrainingSettings(), execution="eager", activation_checkpointing=True)
    with pytest.raises(InputError, match="c3d has no blocks to recompute; expected false"):
        accelerate(build(model_preset("c3d")), settings)
