"""Ahead-of-time compilation of recorded launches, and what the machine code says about them. No GPU needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.common.launch import Launch, launch_options

# The largest shared memory one program may ask for, in bytes (CUDA C programming guide, compute capabilities).
SHARED_MEMORY = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}

_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
_MATRIX_INSTRUCTION = re.compile(r"\b(?:HMMA|HGMMA|UTCHMMA|UTCQMMA|UTCMMA)\b")
_MEMORY_INSTRUCTION = re.compile(r"\b(LDG|LDGSTS|STG)\.E((?:\.\w+)*)")


@dataclass(frozen=True)
class Resources:
    """What one compiled launch needs of a chip.

    `loads` and `stores` count instructions by width in bits; `loaded_bytes` and `stored_bytes` are the bytes
    all threads of one program ask for if every instruction runs once, as in a kernel without loops.
    """

    architecture: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    matrix_instructions: int
    threads: int
    loads: Counter[int] = field(default_factory=Counter)
    stores: Counter[int] = field(default_factory=Counter)

    @property
    def loaded_bytes(self) -> int:
        """Bytes read from global memory by one program."""
        return self.threads * sum(bits // 8 * count for bits, count in self.loads.items())

    @property
    def stored_bytes(self) -> int:
        """Bytes written to global memory by one program."""
        return self.threads * sum(bits // 8 * count for bits, count in self.stores.items())

    @property
    def narrowest_load(self) -> int:
        """Width in bits of the narrowest load."""
        return min(self.loads, default=0)


def compile_launch(launch: Launch, architecture: int) -> Resources:
    """Compile the kernel of `launch` as the GPU would, arguments specialized alike, and read its machine code.

    Raises:
        Exception: whatever Triton or ptxas say when it does not compile.
    """
    options = launch_options(launch.config)
    compiled = triton.compile(_source(launch), target=GPUTarget("cuda", architecture, 32), options=options)
    return _read(compiled.asm["cubin"], architecture, compiled.metadata.shared, 32 * launch.config.num_warps)


def _source(launch: Launch) -> ASTSource:
    """Signature, constants and divisibility of the arguments, by the rules of Triton's own launcher."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = _TYPES[value.dtype]
            divisible = value.storage_offset() * value.element_size() % 16 == 0
        elif isinstance(value, float):
            signature[parameter.name], divisible = "fp32", False
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            divisible = value % 16 == 0
        if divisible:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)


@cache
def _tool(name: str) -> str:
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _read(cubin: bytes, architecture: int, shared_bytes: int, threads: int) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run(
            [_tool("cuobjdump"), "-res-usage", "-sass", file.name], capture_output=True, text=True, check=True
        ).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report)
    if usage is None:
        raise RuntimeError(f"cuobjdump printed no resource usage:\n{report[:2000]}")
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    for name, modifiers in _MEMORY_INSTRUCTION.findall(report):
        (stores if name == "STG" else loads)[_width(modifiers)] += 1
    return Resources(
        architecture=architecture,
        registers=int(usage[1]),
        spilled_bytes=int(usage[2]) + int(usage[3]),
        shared_bytes=shared_bytes,
        matrix_instructions=len(_MATRIX_INSTRUCTION.findall(report)),
        threads=threads,
        loads=loads,
        stores=stores,
    )


def _width(modifiers: str) -> int:
    for part in modifiers.split("."):
        if part in ("U8", "S8"):
            return 8
        if part in ("U16", "S16"):
            return 16
        if part in ("64", "128", "256"):
            return int(part)
    return 32
