"""Choice of devices by name; a missing device is refused by name."""

import pytest
import torch

from dataloading.errors import InputError
from istvt.device import pick_device


def test_a_gpu_that_is_not_there_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="device is 'cuda:2', but there are 2 GPUs here, counted from 0"):
        pick_device("cuda:2")
