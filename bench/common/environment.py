"""What a measurement depends on besides the program: device, clocks, versions, commit, date."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from istvt.device import package_version

# Whose version a measurement may depend on; what is not installed is left out.
_PACKAGES = ("torch", "triton", "numpy", "nvidia-dali", "av", "xformers")
_NVIDIA_SMI = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,power.draw,temperature.gpu,"
    "persistence_mode,mig.mode.current"
)
_ROOT = Path(__file__).resolve().parents[2]


def environment(commit: str | None = None) -> dict[str, Any]:
    """Everything that should stand beside a number, as JSON values.

    Args:
        commit: of the code that runs, where it runs from a copy without its repository.
    """
    import torch

    found: dict[str, Any] = {
        "device": device_name(),
        "kind": "GPU" if torch.cuda.is_available() else "CPU",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or _commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {name: version for name in _PACKAGES if (version := package_version(name))},
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "compute_capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nvidia_smi": nvidia_smi(),
        }
    return found


def device_name() -> str:
    """The GPU where PyTorch sees one, else the processor: a measurement is never filed under another device."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else cpu_name()


def cpu_name() -> str:
    """The processor as the kernel names it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def nvidia_smi() -> dict[str, str]:
    """Clocks, power, temperature and settings of the first GPU; empty where nvidia-smi is not to be had."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_NVIDIA_SMI}", "--format=csv,noheader", "--id=0"],
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in answer.strip().split(",")]
    return dict(zip(_NVIDIA_SMI.split(","), values, strict=False))


def slug(text: str) -> str:
    """A name for a folder or a file."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _commit() -> str | None:
    """Commit of the working tree, with a plus where tracked files differ from it; None outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
