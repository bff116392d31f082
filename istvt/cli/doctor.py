"""`istvt doctor`: installed packages and devices, whether each is usable, and the reason where it is not."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape

from dataloading.errors import InputError
from istvt.cli import PROBLEM_FOUND
from istvt.cli.console import print_lines
from istvt.config import DetectorConfig, __version__

State = Literal["ok", "missing", "unusable", "warning"]


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    part: str
    state: State
    detail: str


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the option."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON: versions, platform and findings, as an issue needs them"
    )


def run(options: Namespace, console: Console) -> int:
    """Print what is installed and usable on this machine, and warn of parts that are installed but not usable."""
    signs = {"ok": "[green]ok[/]     ", "missing": "[dim]absent[/] ", "unusable": "[dim]no use[/] "}
    signs["warning"] = "[yellow]warning[/]"
    findings = examine()
    if options.json:
        print_lines(console, json.dumps(_report(findings), indent=2))
        return _status(findings)
    for finding in findings:
        console.print(
            f"{signs[finding.state]}  {finding.part:<15} {escape(finding.detail)}", highlight=False, soft_wrap=True
        )
    return _status(findings)


def _status(findings: list[Finding]) -> int:
    return PROBLEM_FOUND if any(finding.state == "warning" for finding in findings) else 0


def _report(findings: list[Finding]) -> dict[str, Any]:
    """Return what `--json` prints."""
    from istvt.device import versions

    return {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "findings": [asdict(finding) for finding in findings],
    }


def examine() -> list[Finding]:
    """Check each dependency by using it, the most important first."""
    return [
        _istvt(),
        _torch(),
        _gpu(),
        _kernels(),
        _triton(),
        _xformers(),
        *_dali(),
        _pyav(),
        *_detectors(),
        *_extras(),
    ]


def _istvt() -> Finding:
    return Finding("istvt", "ok", f"{__version__}, Python {platform.python_version()}")


def _torch() -> Finding:
    import torch

    return Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "missing", "no usable NVIDIA GPU: everything runs on the CPU")
    major, minor = torch.cuda.get_device_capability()
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Finding("GPU", "ok", f"{torch.cuda.get_device_name()}, sm_{major}{minor}, {memory:.0f} GiB")


def _kernels() -> Finding:
    try:
        import kernels
    except Exception as error:
        return Finding("kernels", "warning", f"cannot be imported ({_first_line(error)}): without them no model runs")
    ours = Path(__file__).resolve().parents[2] / "kernels"
    found = Path(kernels.__file__).resolve().parent
    if found != ours:
        advice = "another distribution uses that name; uninstall it or put this project first on the path"
        return Finding("kernels", "warning", f"imported from {found}, which is not this project's ({ours}): {advice}")
    return Finding("kernels", "ok", str(found))


def _triton() -> Finding:
    version = _version("triton")
    if version is None:
        return Finding("Triton", "missing", "not installed; on a GPU it comes with torch, elsewhere pip install triton")
    import torch

    runs = "compiles for the GPU" if torch.cuda.is_available() else "interpreter and ahead-of-time compilation only"
    return Finding("Triton", "ok", f"{version}, {runs}")


def _xformers() -> Finding:
    version = _version("xformers")
    if version is None:
        return Finding("xformers", "missing", "not installed; only a peer in benchmarks and an attention backend")
    import torch

    if not torch.cuda.is_available():
        return Finding("xformers", "unusable", f"{version} is installed; it computes on an NVIDIA GPU only")
    try:
        import xformers.ops

        tokens = torch.zeros(1, 16, 1, 16, dtype=torch.float16, device="cuda")
        xformers.ops.memory_efficient_attention(tokens, tokens, tokens)
    except Exception as error:  # a build for another torch or GPU may raise any exception
        return Finding("xformers", "unusable", f"{version} is installed and cannot be used ({_first_line(error)})")
    return Finding("xformers", "ok", f"{version}, usable")


def _dali() -> list[Finding]:
    version = _version("nvidia-dali")
    if version is None:
        return [Finding("DALI", "missing", "not installed; pip install nvidia-dali-cuda130: no clips on a GPU")]
    import torch

    from dataloading.clips.pipeline import require_dali
    from dataloading.video.decoder import has_nvdec

    try:
        require_dali()
    except InputError as error:
        return [Finding("DALI", "warning", f"{version} is installed, but {error}")]
    graph, decoding = "CPU", "PyAV; DALI itself decodes only VP8, VP9 and MJPEG on a CPU"
    if torch.cuda.is_available():
        graph, decoding = "GPU", "PyAV; NVIDIA's video decoder (libnvcuvid.so.1) is not installed here"
        if has_nvdec():
            decoding = "DALI (NVDEC) for 8-bit 4:2:0 H.264, HEVC, VP9 and AV1, PyAV for the rest"
    return [Finding("DALI", "ok", f"{version}, {graph} graph"), Finding("video decoding", "ok", decoding)]


def _pyav() -> Finding:
    try:
        import av
    except (ImportError, OSError) as error:
        return Finding("PyAV", "warning", f"cannot be imported ({_first_line(error)}): no video can be read")
    wanted = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9"}
    encoders = [name for name, encoder in wanted.items() if encoder in av.codecs_available]
    return Finding("PyAV", "ok", f"{av.__version__}, encodes {', '.join(encoders)}")


def _detectors() -> list[Finding]:
    from dataloading.faces import DETECTORS, installed_detectors, make_detector

    installed = installed_detectors()
    if not installed:
        return [Finding("face detector", "missing", f"none of {', '.join(DETECTORS)}; only --no-detect works")]
    findings, working = [], []
    for name in installed:
        try:
            make_detector(name)
            working.append(name)
        except InputError as error:
            findings.append(Finding("face detector", "warning", str(error)))
    if working:
        detail = f"{working[0]} is used" + f"; also {', '.join(working[1:])}" * (len(working) > 1)
        findings.insert(0, Finding("face detector", "ok", detail))
    return findings


# What `pip install 'istvt[EXTRA]'` brings and only some commands need: by extra, the packages that are imported.
EXTRAS = {
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "hub": ("huggingface_hub",),
    "mlflow": ("mlflow",),
    "ray": ("ray",),
    "remote": ("aiohttp",),
    "serve": ("fastapi", "uvicorn"),
    "wandb": ("wandb",),
}


def _extras() -> list[Finding]:
    """Say which extras are installed, without the seconds of their imports."""
    missing = {extra: [name for name in names if find_spec(name) is None] for extra, names in EXTRAS.items()}
    here = [extra for extra, names in missing.items() if not names]
    findings = [Finding("extras", "ok", f"{', '.join(here)} installed (not tried)")] if here else []
    if absent := [extra for extra, names in missing.items() if names]:
        findings.append(Finding("extras", "missing", f"{', '.join(absent)}; pip install 'istvt[{absent[0]}]'"))
    return findings


def _version(name: str) -> str | None:
    from istvt.device import package_version  # imports PyTorch, which would slow down --help by seconds

    return package_version(name)


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, which may be long."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
