"""Ahead-of-time compilation of recorded launches, and the resources that their machine code takes. No GPU needed."""

import contextlib
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend

from bench.common.record import Row
from kernels.common.launch import Launch, launch_options

# The largest shared memory one program may ask for, in bytes (CUDA C programming guide, compute capabilities).
SHARED_MEMORY = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}

_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
_MATRIX_INSTRUCTION = re.compile(r"\b(?:HMMA|HGMMA|UTCHMMA|UTCQMMA|UTCMMA)\b")
_MEMORY_INSTRUCTION = re.compile(r"\b(LDG|LDGSTS|STG)\.E((?:\.\w+)*)")
_BITS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}  # by modifier; 32 without one


def compile_kernel(
    kernel: Any, arguments: Mapping[str, Any], options: Mapping[str, Any], architecture: int, machine_code: bool = True
) -> Any:
    """Compile a kernel as Triton's own launcher does, for a GPU that need not be there; return what Triton returns.

    `arguments` are those of the kernel by name, `options` of the compiler. Without `machine_code` it stops at PTX and
    leaves the cubin empty, in a cache of its own: ptxas takes its time. Raises whatever Triton or ptxas say.
    """
    gpu = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", architecture, 32),
        # Under which what is compiled is kept: no number of a GPU that is there.
        get_current_device=lambda: f"sm_{architecture}{'' if machine_code else ' PTX'}",
        get_current_stream=lambda device: 0,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch("triton.runtime.jit.driver", SimpleNamespace(active=gpu)))
        if not machine_code:
            stack.enter_context(patch.object(CUDABackend, "make_cubin", lambda *_: b""))
            stack.enter_context(triton.knobs.cache.scope())
            triton.knobs.cache.dir = str(Path(triton.knobs.cache.dir) / "ptx")
        return kernel.warmup(grid=(1,), **arguments, **options)


def compile_launch(launch: Launch, architecture: int) -> Row:
    """Compile the kernel of `launch` and read its machine code; raises as `compile_kernel`.

    Returns:
        Registers, bytes spilled and of shared memory, tensor-core instructions, and `loads` and `stores`: instructions
        by width in bits.
    """
    compiled = compile_kernel(launch.kernel, launch.arguments, launch_options(launch.config), architecture)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(_CUOBJDUMP), "-res-usage", "-sass", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report)
    if usage is None:
        raise RuntimeError(f"cuobjdump printed no resource usage:\n{report[:2000]}")
    loads, stores = Counter(), Counter()
    for name, modifiers in _MEMORY_INSTRUCTION.findall(report):
        bits = next((_BITS[modifier] for modifier in modifiers.split(".") if modifier in _BITS), 32)
        (stores if name == "STG" else loads)[bits] += 1
    return {
        "registers": int(usage[1]), "spill B": int(usage[2]) + int(usage[3]), "shared B": compiled.metadata.shared,
        "loads": loads, "stores": stores, "tensor core": len(_MATRIX_INSTRUCTION.findall(report)),
    }  # fmt: skip
