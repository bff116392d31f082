"""Run `istvt`, and fail if a DDP model outlives the process group, which can deadlock."""

import gc
import sys

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from istvt.cli.main import main

destroy = dist.destroy_process_group


def check_and_destroy() -> None:
    assert not [thing for thing in gc.get_objects() if isinstance(thing, DistributedDataParallel)]
    destroy()


dist.destroy_process_group = check_and_destroy
sys.exit(main())
