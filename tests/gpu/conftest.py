"""Tests in this folder launch the real Triton kernels: on a GPU, or on CPU tensors in Triton's interpreter.

The interpreter has to be chosen before Triton is imported, so on a machine without a GPU an ordinary session skips the
folder and `tests/kernels/test_in_the_interpreter.py` runs its files in sessions of their own.
"""

import pytest
import torch

from kernels.common.launch import interpreted

collect_ignore_glob = [] if torch.cuda.is_available() or interpreted() else ["test_*.py"]


@pytest.fixture
def poisoned():
    """Every uninitialized buffer holds NaN: what a kernel does not write is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
