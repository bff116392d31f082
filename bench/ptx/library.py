"""Compile the executor's C++ on first use and load it; the structures that it takes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.ptx.opcodes import header
from dataloading.errors import InputError

SOURCES = Path(__file__).parent / "executor"
# Every product and sum is rounded as it is written; patterns of bits are read as other types.
_FLAGS = (
    "-std=c++17", "-O2", "-ftree-vectorize", "-ffp-contract=off", "-fno-strict-aliasing", "-fno-math-errno",
    "-fno-trapping-math", "-shared", "-fPIC", "-pthread", "-w",
)  # fmt: skip
# Flags for this processor, of which the first set that the compiler takes is used.
_NATIVE = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ())

_INT, _LONG, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p


class Range(ctypes.Structure):
    """`Range` of job.hpp."""

    _fields_ = (("begin", ctypes.c_uint64), ("end", ctypes.c_uint64))


class FaultRecord(ctypes.Structure):
    """`FaultRecord` of job.hpp."""

    _fields_ = (
        *((name, _INT) for name in ("kind", "instruction", "program", "warp", "lane", "extra")),
        ("address", ctypes.c_uint64),
        ("count", ctypes.c_uint64),
    )


class Job(ctypes.Structure):
    """`Job` of job.hpp."""

    _fields_ = (
        ("code", _POINTER), ("code_size", _INT), ("operands", _POINTER), ("constants", _POINTER),
        ("register_words", _INT), ("predicates", _INT), ("warps", _INT), ("shared_bytes", _INT), ("unit_shift", _INT),
        ("tensors", _POINTER), ("tensor_count", _INT), ("grid", _INT * 3), ("arena", ctypes.c_uint64),
        ("owner", _POINTER), ("sectors_read", _POINTER), ("sectors_written", _POINTER),
        ("programs", _LONG), ("order", _POINTER), ("first_warp", _INT),
        ("check_shared", _INT), ("statistics", _INT), ("threads", _INT),
        ("block_16", _INT), ("block_32", _INT), ("extra_bits", _INT), ("nearest", _INT),
        ("noise_ulps", ctypes.c_float), ("most_faults", _INT), ("step_limit", _LONG),
        ("counts", _POINTER), ("faults", _POINTER), ("fault_count", _POINTER),
    )  # fmt: skip


@functools.cache
def library() -> ctypes.CDLL:
    """Return the executor, compiled on first use into `$XDG_CACHE_HOME/istvt/ptx` (default: `~/.cache`).

    Raises:
        InputError: no C++ compiler, one that does not compile it, or a folder that cannot be written.
    """
    compiler = _compiler()
    sources = {path.name: path.read_text() for path in sorted(SOURCES.iterdir()) if path.suffix in (".hpp", ".cpp")}
    sources["operations.inc"] = header()
    described = [
        compiler,
        *_FLAGS,
        *map(str, _NATIVE),
        _processor(),
        *(part for pair in sources.items() for part in pair),
    ]
    key = hashlib.sha256("\0".join(described).encode()).hexdigest()[:20]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "istvt" / "ptx"
    target = cache / f"{key}.so"
    if not target.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                _compile(compiler, sources, Path(folder))
                os.replace(Path(folder) / "executor.so", target)
        except OSError as error:
            raise InputError(f"{cache}: the executor cannot be written there ({error}); set XDG_CACHE_HOME.") from error
    loaded = ctypes.CDLL(str(target))
    loaded.ptx_run.restype = ctypes.c_int
    return loaded


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise InputError("executing compiled kernels needs a C++ compiler: none of $CXX, c++, g++ and clang++ is found.")


def _processor() -> str:
    """Return what -march=native depends on."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return f"{platform.machine()} {found[0] if found else platform.processor()}"


def _compile(compiler: str, sources: dict[str, str], folder: Path) -> None:
    for name, text in sources.items():
        (folder / name).write_text(text)
    units = sorted(name for name in sources if name.endswith(".cpp"))
    for native in _NATIVE:
        done = subprocess.run(
            [compiler, *_FLAGS, *native, *units, "-o", "executor.so"], cwd=folder, capture_output=True, text=True
        )
        if done.returncode == 0:
            return
    message = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
    raise InputError(f"{compiler} does not compile the executor: {message}")
