"""`istvt`, and an error where a model of DDP is still there when the processes part: they could wait for ever."""

import gc
import sys

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from istvt.cli.main import main

destroy = dist.destroy_process_group


def look_and_destroy() -> None:
    assert not [thing for thing in gc.get_objects() if isinstance(thing, DistributedDataParallel)]
    destroy()


dist.destroy_process_group = look_and_destroy
sys.exit(main())
