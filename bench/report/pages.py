"""The generated sections of bench/README.md and README.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.common.record import Run
from bench.report import tables
from bench.report.devices import Device, devices
from bench.report.markdown import provenance
from bench.report.promises import promises
from bench.scaling.sweep import PASSES

ROOT = Path(__file__).resolve().parents[2]
_TITLES = {
    "temporal": "Temporal attention",
    "layer_norm_difference": "LayerNorm and difference",
    "spatial": "Spatial attention",
    "relevance": "Relevance",
}
_IN_THE_INTERPRETER = "Memory of spatial attention: what the kernels have PyTorch allocate, in Triton's interpreter"


def all_tables(found: Sequence[Run], root: Path = ROOT) -> str:
    """The generated part of bench/README.md."""
    found_devices = devices(found)
    gpus = [device for device in found_devices if device.kind == "GPU"]
    parts = []
    for gpu in gpus or [None]:
        parts.append(f"## {gpu.name}\n" if gpu else "## GPU: not measured\n")
        operations = ("temporal", "layer_norm_difference", "spatial", "relevance")
        for title, table, text in (
            ("Ceilings", "ceilings", tables.ceilings(gpu)),
            ("Numerics", "numerics", tables.numerics(gpu)),
            *((_TITLES[name], name, tables.attention(gpu, name)) for name in operations),
            ("What a capture of spatial attention costs", "spatial_capture", tables.capture(gpu)),
            ("Memory of spatial attention", "spatial_memory", tables.spatial_memory(gpu)),
            ("Memory of explaining one clip", "explanation_memory", tables.explanation_memory(gpu)),
            ("Time of explaining a batch", "explanation_time", tables.explanation_time(gpu)),
            ("A training step", "training", tables.training(gpu)),
            ("What was promised of it", "training", promises(gpu)),
            ("Where its time goes", "training_families", tables.families(gpu)),
            ("Loader", "loader", tables.loader(gpu)),
        ):
            sources = gpu.sources(table) if gpu else []
            parts += [f"### {title}\n", _provenance(sources, root), text, _pictures(sources, table, root)]
        parts += _scaling(gpu, root) if gpu else ["### Scaling\n", "not measured on a GPU\n"]
    for cpu in (device for device in found_devices if device.kind == "CPU"):
        parts.append(f"## {cpu.name} (a CPU)\n")
        parts.append("Measured on this CPU. It says nothing of any GPU.\n")
        parts += _scaling(cpu, root)
        for title, table, text in (
            (_IN_THE_INTERPRETER, "spatial_memory", tables.spatial_memory(cpu)),
            ("Memory of explaining one clip", "explanation_memory", tables.explanation_memory(cpu)),
            ("A training step of the preset small", "training", tables.training(cpu, ("small",))),
            ("Loader", "loader", tables.loader(cpu)),
        ):
            if sources := cpu.sources(table):
                parts += [f"### {title}\n", _provenance(sources, root), text]
    return "\n".join(part for part in parts if part)


def performance(found: Sequence[Run], root: Path = ROOT) -> str:
    """The generated part of README.md."""
    found_devices = devices(found)
    gpus = [device for device in found_devices if device.kind == "GPU"]
    parts = []
    for gpu in gpus or [None]:
        parts.append(f"One training step on {gpu.name}:\n" if gpu else "One training step on a GPU:\n")
        parts += [_provenance(gpu.sources("training") if gpu else [], root), promises(gpu)]
    for device in found_devices:
        if judged := tables.scaling_verdicts(device):
            parts.append(f"How attention grows with frames T and feature cells HW, on {device.name} ({device.kind}):\n")
            parts.append("\n".join(f"- {row['verdict']}" for row in judged if row["pass"] != PASSES[0]) + "\n")
    parts.append("All tables, and how they were measured: [bench/README.md](bench/README.md).\n")
    return "\n".join(part for part in parts if part)


def _scaling(device: Device, root: Path) -> list[str]:
    sources = device.sources("scaling")
    if not sources:
        return []
    text = tables.scaling(device)
    return ["### Scaling\n", _provenance(sources, root), text, _pictures(sources, "scaling", root)]


def _pictures(sources: Sequence[tuple[Run, int]], table: str, root: Path) -> str:
    """Links from bench/README.md to the pictures of a table, of those in the repository: one of each recording."""
    pictures = [one.folder / f"{table}.png" for one, _ in sources]
    there = [picture for picture in pictures if picture.is_file() and picture.is_relative_to(root / "bench")]
    return "".join(f"![{table}]({picture.relative_to(root / 'bench').as_posix()})\n" for picture in there)


def _provenance(sources: Sequence[tuple[Run, int]], root: Path) -> str:
    """A line for each recording that a table is made of, with the number of its rows where there are several."""
    lines = []
    for one, rows in sources:
        inside = one.folder.is_relative_to(root)
        where = f", {one.folder.relative_to(root).as_posix()}" if inside else f", {one.folder.name}"
        share = f"{rows} row{'s' if rows > 1 else ''} measured" if len(sources) > 1 else "Measured"
        lines.append(f"{share} {provenance(one.environment)}{where}.")
    return "\n".join(f"- {line}" for line in lines) + "\n" if len(lines) > 1 else "".join(f"{x}\n" for x in lines)
