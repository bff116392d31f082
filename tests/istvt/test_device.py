"""Choice of devices and precisions by name; a missing device is refused by name."""

import os
import subprocess
import sys

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


PAGES = """
import resource, torch
from istvt.device import keep_freed_memory
keep_freed_memory(torch.device("cpu"))
for _ in range(24):  # small blocks lie between the first ones, which are not of one piece when they are freed
    torch.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(1 << 22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc")
def test_memory_of_a_freed_tensor_is_used_again_on_a_cpu_unless_the_environment_says_how():
    """A layer of the paper's size waited for new pages of 66 MB, as the one before it had."""

    def new_pages(**environment: str) -> int:
        kept = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
        run = subprocess.run([sys.executable, "-c", PAGES], env=kept, capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert new_pages() < 100
    assert new_pages(MALLOC_MMAP_THRESHOLD_="131072") > 4 * (1 << 24) // 4096 - 100
