"""Ahead-of-time compilation of recorded launches, and the resources that their machine code takes. No GPU needed."""

import contextlib
import itertools
import re
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
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

INSTRUCTION_BYTES = 16
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
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


def compile_launches(launches: Sequence[Launch], architecture: int) -> list[Row]:
    """Compile the kernels of `launches` and read their machine code; raises as `compile_kernel`.

    Returns:
        Of each: registers, bytes spilled and of shared memory, tensor-core instructions, and `loads` and `stores`:
        instructions by width in bits.
    """
    kernels = [compile_kernel(x.kernel, x.arguments, launch_options(x.config), architecture) for x in launches]
    codes = [_code(kernel.asm["cubin"]) for kernel in kernels]
    # All at once: the disassembler takes longer to start than to do this.
    listing = _answer("nvdisasm", "--binary", f"SM{architecture}", content=b"".join(codes))
    lines = iter([line for line in listing.splitlines() if line.lstrip().startswith("/*")])
    rows = []
    for kernel, code in zip(kernels, codes, strict=True):
        report = _answer("cuobjdump", "-res-usage", content=kernel.asm["cubin"])
        usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report)
        if usage is None:
            raise RuntimeError(f"cuobjdump printed no resource usage:\n{report[:2000]}")
        instructions = "\n".join(itertools.islice(lines, len(code) // INSTRUCTION_BYTES))
        loads, stores = Counter(), Counter()
        for name, modifiers in _MEMORY_INSTRUCTION.findall(instructions):
            bits = next((_BITS[modifier] for modifier in modifiers.split(".") if modifier in _BITS), 32)
            (stores if name == "STG" else loads)[bits] += 1
        rows.append({
            "registers": int(usage[1]), "spill B": int(usage[2]) + int(usage[3]), "shared B": kernel.metadata.shared,
            "loads": loads, "stores": stores, "tensor core": len(_MATRIX_INSTRUCTION.findall(instructions)),
        })  # fmt: skip
    return rows


def _code(cubin: bytes) -> bytes:
    """Return the instructions of the one kernel in an ELF file of 64 bits."""
    (offset,), (size, count, names) = struct.unpack_from("<Q", cubin, 40), struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, offset + size * number) for number in range(count)]
    [code] = [s for s in sections if cubin.startswith(b".text.", sections[names][4] + s[0])]
    return cubin[code[4] : code[4] + code[5]]


def _answer(tool: str, *options: str, content: bytes) -> str:
    """Return what a tool of CUDA that comes with Triton prints of a file with this content."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        command = [str(_TOOLS / tool), *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
