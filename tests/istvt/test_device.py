"""Choice of devices and precisions by name; a missing device is refused by name."""

import pytest
import torch

from dataloading.errors import InputError
from istvt.device import pick_device, resolve_precision


def test_a_gpu_that_is_not_there_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="device is 'cuda:2', but there are 2 GPUs here, counted from 0"):
        pick_device("cuda:2")


@pytest.mark.parametrize(
    "capabilities, limit, dtype",
    [
        ({"amx_bf16": True, "avx512_bf16": True}, None, torch.bfloat16),
        ({"avx512_bf16": True}, None, torch.bfloat16),  # of AMD, without AMX
        ({"avx512_f": True, "amx_bf16": False}, None, torch.float32),
        ({}, None, torch.float32),
        ({"amx_bf16": True, "avx512_bf16": True}, "AVX512_CORE", torch.float32),
        ({"amx_bf16": True, "avx512_bf16": True}, "AVX512_CORE_AMX", torch.bfloat16),
    ],
)
def test_a_processor_computes_in_bfloat16_where_it_has_instructions_for_it_and_may_use_them(
    monkeypatch, capabilities, limit, dtype
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert resolve_precision("auto", torch.device("cpu")) == dtype
    assert resolve_precision("float32", torch.device("cpu")) == torch.float32
