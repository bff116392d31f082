"""torch.compile, CUDA graphs and activation checkpointing: fewer compilations, the same numbers."""

import math
import re
from dataclasses import dataclass

import pytest
import torch

from dataloading.errors import InputError
from istvt import ISTVT, ISTVTConfig
from istvt.config import TrainingSettings
from istvt.training.compile import accelerate, resolve_execution
from istvt.training.distributed import Processes
from istvt.training.optim import build_optimizer
from istvt.training.step import TrainingStep

CONFIG = ISTVTConfig(
    frames=3, image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8)
)  # 3x3 positions


@dataclass
class Clips:
    """What a step reads of a batch."""

    clips: torch.Tensor
    labels: torch.Tensor


def random_clips(device: str) -> Clips:
    clips = torch.rand(2, CONFIG.frames, 3, CONFIG.image_size, CONFIG.image_size, device=device)
    return Clips(2 * clips - 1, torch.tensor([0.0, 1.0], device=device))


@pytest.mark.parametrize("change", [{}, {"attention": "decomposed_blocks"}], ids=["temporal_first", "decomposed"])
def test_equal_blocks_are_compiled_once_however_many_there_are(change):
    """Compiled block by block, twelve blocks are beyond what torch.compile makes of one function (8)."""
    compiled = []

    def count(graph, inputs):
        compiled.append(graph)
        return graph

    torch._dynamo.reset()
    model = ISTVT(ISTVTConfig(**{**CONFIG.to_dict(), "depth": 12, **change})).train()
    accelerate(model, TrainingSettings(execution="compile"), backend=count)
    try:
        for _ in range(2):
            model(random_clips("cpu").clips).sum().backward()
    finally:
        torch._dynamo.reset()
    # The backbone, a block, and the last block for its class token; or one block of each kind.
    assert len(compiled) == 3


def test_steps_are_compiled_by_default_where_the_kernels_of_this_project_run(monkeypatch):
    """A benchmark said `as istvt train runs it`, of what it did only when it was asked to."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for capability, chosen in (((7, 5), "eager"), ((9, 0), "compile")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert resolve_execution(TrainingSettings(), gpu) == chosen
    assert resolve_execution(TrainingSettings(backend="sdpa"), gpu) == "eager"
    assert resolve_execution(TrainingSettings(), cpu) == "eager"
    for named in ("eager", "compile", "cuda_graphs"):
        assert resolve_execution(TrainingSettings(execution=named), cpu) == named


def test_graphs_of_sharded_parameters_are_refused_in_one_sentence():
    """FSDP frees gathered parameters and allocates them again: a replayed graph would read the memory of others."""
    training = TrainingSettings(execution="cuda_graphs", parallel="fsdp")
    with pytest.raises(
        InputError, match=r"execution is 'cuda_graphs' and training\.parallel 'fsdp'.*use compile, or ddp"
    ):
        accelerate(ISTVT(CONFIG), training, sharded=True)


@pytest.mark.gpu
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("execution", ["compile", "cuda_graphs"])
def test_on_a_gpu_compiled_and_replayed_steps_train_as_eager_ones_and_never_wait(execution, accumulation):
    batches = [random_clips("cuda") for _ in range(accumulation)]
    weights = {}
    for how in ("eager", execution):
        torch._dynamo.reset()
        torch.manual_seed(0)
        training = TrainingSettings(batch_size=2, accumulation=accumulation, execution=how, optimizer="sgd")
        model = ISTVT(CONFIG).cuda().train()
        accelerate(model, training)
        step = TrainingStep(model, model, build_optimizer(model, training), torch.bfloat16, training, Processes())
        for number in range(6):  # graphs are captured in the second step and replayed from the third on
            torch.cuda.set_sync_debug_mode("error" if number > 3 else "default")
            try:
                step(iter(batches), accumulation, 0.01)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert step.counts().clips == 6 * 2 * accumulation
        weights[how] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    moved = (weights["eager"] - torch.cat([p.detach().flatten() for p in _fresh().parameters()]).cuda()).norm()
    # Fused code rounds to bfloat16 (2^-9) elsewhere, at about a hundred places of a step: 2^-9 * sqrt(100) = 0.02.
    assert (weights[execution] - weights["eager"]).norm() < 0.05 * moved


def _fresh() -> ISTVT:
    torch.manual_seed(0)
    return ISTVT(CONFIG)


@pytest.mark.gpu
def test_on_a_gpu_no_compiled_block_pads_tokens_which_its_linear_layers_would_copy():
    """With torch.compile's own padding three copies of all tokens were made in a block, a tenth of what it moves."""
    from torch._inductor.utils import run_and_get_code

    torch._dynamo.reset()
    model = ISTVT(ISTVTConfig(depth=2)).cuda().train()
    accelerate(model, TrainingSettings(execution="compile"))
    tokens = torch.randn(1, 7, 362, 728, device="cuda", requires_grad=True)

    def forward_and_backward():
        with torch.autocast("cuda", torch.bfloat16):
            model.blocks[0](tokens).sum().backward()

    _, sources = run_and_get_code(forward_and_backward)
    buffers = re.findall(r"empty_strided_cuda\(\((1, 7, 362, \d\d+)\), \(([\d, ]+)\)", "".join(sources))
    assert buffers
    for shape, strides in ([tuple(map(int, numbers.split(", "))) for numbers in buffer] for buffer in buffers):
        assert strides[1:] == tuple(math.prod(shape[axis + 1 :]) for axis in (1, 2, 3)), (shape, strides)
