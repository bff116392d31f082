"""Register operators with PyTorch, so that they survive `torch.compile`, checkpointing and FSDP2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "istvt"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")


def register(signature: str, *, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an operator and return it: `signature` is a schema such as `"twice(Tensor x) -> Tensor"`.

    CPU tensors are for Triton's interpreter and for an executor of compiled kernels alone: elsewhere the public
    functions give them to the references.

    Args:
        signature: name, arguments and results as `torch.library` writes them. A fixed number of each.
        kernel: runs on CUDA tensors, and on CPU tensors in Triton's interpreter or `launch.executed_by`.
        fake: shapes and dtypes of the results, for tracing.
    """
    name = signature.split("(", 1)[0]
    LIBRARY.define(signature, tags=(torch.Tag.pt2_compliant_tag,))
    for device in ("CUDA", "CPU"):
        LIBRARY.impl(name, kernel, device)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    return getattr(getattr(torch.ops, NAMESPACE), name).default
