"""torch.compile, channels_last and activation checkpointing."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dataloading.errors import InputError
from istvt.config import TrainingSettings
from istvt.model.attention import resolve_backend
from istvt.model.detector import Detector
from istvt.model.istvt import ISTVT


def resolve_execution(training: TrainingSettings, device: torch.device) -> str:
    """Return the execution of `training` on `device`: "auto" is compile where the attention kernels run."""
    if training.execution != "auto":
        return training.execution
    kernels = device.type == "cuda" and resolve_backend(training.backend, device) == "triton"
    return "compile" if kernels else "eager"


def accelerate(model: Detector, training: TrainingSettings, sharded: bool = False, backend: str = "inductor") -> None:
    """Apply channels_last, checkpointing and torch.compile to the model in place; parameter names do not change.

    Args:
        model: on its device already.
        training: `execution`, resolved, and `activation_checkpointing`.
        sharded: FSDP will shard its parameters, and it takes contiguous ones only.
        backend: of torch.compile.

    Raises:
        InputError: CUDA graphs of sharded parameters, or checkpointing of a network without blocks.
    """
    if sharded and training.execution == "cuda_graphs":
        raise InputError(
            "training.execution is 'cuda_graphs' and training.parallel 'fsdp', but graphs are replayed on the memory "
            "of their capture, and FSDP gathers parameters into other memory; use compile, or ddp"
        )
    # Every batch has the same shape, so cuDNN benchmarks each convolution once.
    torch.backends.cudnn.benchmark = True
    if not sharded:  # the weights like the frames; FSDP shards contiguous parameters only
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    if training.activation_checkpointing:
        if not model.equal_blocks():
            raise InputError(
                f"training.activation_checkpointing is true, and {model.config.architecture} has no blocks to "
                "recompute; expected false"
            )
        for block in model.equal_blocks():
            block.forward = functools.partial(_recomputed, block.forward)
    if training.execution in ("compile", "cuda_graphs"):
        _compile(model, backend, graphs=training.execution == "cuda_graphs")


def run_eagerly() -> contextlib.AbstractContextManager:
    """Run compiled modules eagerly: validation has other shapes and another mode, and would recompile them."""
    return torch.compiler.set_stance("force_eager")


def _recomputed(forward: Callable[..., Tensor], *inputs: object) -> Tensor:
    """Call `forward`, save only its inputs, and recompute it in the backward pass."""
    # A block draws no random numbers, so their state need not be saved.
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)


def _compile(model: Detector, backend: str, graphs: bool) -> None:
    """Compile the backbone and every block by itself: equal blocks compile once, and a graph break is an error."""
    how = {"fullgraph": True, "dynamic": False, "backend": backend}
    if backend == "inductor":
        # Tokens with padded strides cannot be viewed as a matrix: every linear layer would copy its input.
        how["options"] = {"comprehensive_padding": False, "triton.cudagraphs": graphs}
    for part in model.compiled_parts():
        part.compile(**how)
    if isinstance(model, ISTVT) and model.config.attention == "temporal_first":
        last = model.blocks[-1]
        last.class_token = torch.compile(last.class_token, **how)
