"""Device, clocks, versions and commit of a measurement; whether the machine has what a command needs."""

import contextlib
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dataloading.errors import InputError
from istvt.device import package_version
from kernels.common import launch

# Whose version a measurement may depend on; what is not installed is left out.
_PACKAGES = ("torch", "triton", "numpy", "nvidia-dali", "av", "xformers")
_NVIDIA_SMI = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,power.draw,temperature.gpu,"
    "persistence_mode,mig.mode.current"
)
_ROOT = str(Path(__file__).resolve().parents[2])


def environment(commit: str | None = None) -> dict[str, Any]:
    """Return everything that should stand beside a number, as JSON values.

    `commit` is that of the code where it runs from a copy without its repository.
    """
    on_gpu = torch.cuda.is_available()
    found: dict[str, Any] = {
        "device": device_name(), "kind": "GPU" if on_gpu else "CPU",
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit or _commit(),
        "python": platform.python_version(), "system": platform.platform(), "cpu": _cpu_name(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2),
        "versions": {name: version for name in _PACKAGES if (version := package_version(name))},
    }  # fmt: skip
    if on_gpu:
        smi = _answer("nvidia-smi", f"--query-gpu={_NVIDIA_SMI}", "--format=csv,noheader", "--id=0")
        found["nvidia_smi"] = dict(zip(_NVIDIA_SMI.split(","), smi.split(", "), strict=False)) if smi else {}
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "compute_capability": f"{properties.major}.{properties.minor}", "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count, "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }  # fmt: skip
    return found


def require_gpu(command: str) -> None:
    """Refuse to run `command` where there is no GPU.

    Raises:
        InputError: there is none.
    """
    if not torch.cuda.is_available():
        raise InputError(f"{command} needs an NVIDIA GPU, and PyTorch finds none here.")


def gpu_or_interpreter() -> str:
    """Return the device of tensors that kernels take here: "cuda", or "cpu" in Triton's interpreter.

    Without a GPU the whole command starts over in the interpreter: Triton decides when a kernel is defined.
    """
    if launch.interpreted():
        return "cpu"
    if not torch.cuda.is_available():
        sys.stdout.flush()
        words = [sys.executable, "-m", "bench", *sys.argv[1:]]
        os.execve(sys.executable, words, os.environ | {"TRITON_INTERPRET": "1"})
    return "cuda"


def device_name() -> str:
    """Return the GPU's name where PyTorch sees one, else the processor's: no run is filed under another device."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else _cpu_name()


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the working tree, with a plus where tracked files differ; None outside a repository."""
    commit = _answer("git", "-C", _ROOT, "rev-parse", "--short=12", "HEAD")
    changed = _answer("git", "-C", _ROOT, "status", "--porcelain", "-uno")
    return commit and commit + ("+" if changed else "")


def _answer(*command: str) -> str | None:
    """Return what a program prints; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
