"""Process group, DDP and FSDP2: the processes that torchrun starts, their collectives, and the model among them.

With `ddp` every process holds the model and gradients are averaged. With `fsdp` (FSDP2, `fully_shard`) each holds a
share of every parameter, its gradient and its optimizer state, and the blocks are gathered one by one when they run.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from dataloading.errors import InputError
from istvt.model.detector import Detector
from istvt.model.istvt import ISTVT


@dataclass(frozen=True)
class Processes:
    """The processes of a run; one unless torchrun started several.

    Attributes:
        rank: of this process, from 0.
        world_size: number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, which prints and logs."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are several processes."""
        return self.world_size > 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes in place; the host does not wait."""
        if self.is_distributed:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, value: Any) -> list[Any]:
        """Return the value of each process, in the order of ranks."""
        if not self.is_distributed:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """Return the value of process 0 in every process."""
        values = [value]
        if self.is_distributed:
            dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def barrier(self) -> None:
        """Block until every process has called this."""
        self.all_gather(None)


@contextlib.contextmanager
def joined_processes(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Join the process group of torchrun's processes for as long as the context lasts; there is none for one process.

    Args:
        device: as the settings name it; with several processes "cuda" becomes this process's own GPU.

    Raises:
        InputError: there are more processes than GPUs, or one GPU was named for all of them.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes(), device
        return
    backend = "gloo"
    if device.type == "cuda":
        local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if device.index is not None:
            raise InputError(f"device is '{device}', but each of {world_size} processes takes its own GPU; use cuda")
        if local_rank >= gpus:
            started = os.environ["LOCAL_WORLD_SIZE"]
            raise InputError(f"torchrun started {started} processes here, but there are {gpus} GPUs; start no more")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"  # gloo beside nccl: gathering objects on the CPU does not synchronize the GPU
    dist.init_process_group(backend)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size()), device
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they reference the model
        raise
    finally:
        # A DDP model that outlives the group is its last owner: its destructor waits for the group's threads while it
        # holds the GIL, and a thread that still has a tensor to release waits for the GIL: a deadlock.
        gc.collect()
        dist.destroy_process_group()


def distribute(model: Detector, parallel: str, processes: Processes, device: torch.device) -> nn.Module:
    """Return the module whose forward averages gradients over the processes: `model` itself, its DDP or its FSDP2.

    Running statistics of batch normalization are averaged by `TrainingStep`.
    """
    if not processes.is_distributed:
        return model
    if parallel == "ddp":
        ids = [device.index] if device.type == "cuda" else None
        renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # from torch 2.13
        options = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, **options)
    # Logits are a view of the head's output, and nothing here writes into them.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")
    mesh = init_device_mesh(device.type, (processes.world_size,))
    for block in model.equal_blocks():
        fully_shard(block, mesh=mesh)
    if isinstance(model, ISTVT):
        # The last block is entered by this method, not by forward; its parameters are gathered there too.
        register_fsdp_forward_method(model.blocks[-1], "class_token")
    fully_shard(model, mesh=mesh)
    return model


@contextlib.contextmanager
def no_grad_sync(module: nn.Module, accumulate: bool) -> Iterator[None]:
    """Keep gradients of this process unreduced if `accumulate`: for all but the last batch of a step."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(not accumulate)
        yield
    elif isinstance(module, DistributedDataParallel) and accumulate:
        with module.no_sync():
            yield
    else:
        yield
