"""Tables and plots from folders of measurements.

Writes the tables of bench/README.md and the performance section of README.md between their marker comments, and draws
plots into the folders. Numbers come from the CSV files alone; what was not measured says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common.plots import draw_bars, draw_growth
from bench.common.record import RESULTS, Run, read_runs
from bench.report.devices import Device, Rows, devices
from bench.report.markdown import replace_section
from bench.report.promises import promises
from bench.report.tables import TABLES, at_paper_size, scaling_claims
from bench.scaling.sweep import PASSES
from dataloading.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
# Title of each table by its CSV file, in the order of the page.
_ON_GPU = {
    "ceilings": "Ceilings",
    "numerics": "Numerics",
    "temporal": "Temporal attention",
    "layer_norm_difference": "LayerNorm and difference",
    "spatial": "Spatial attention",
    "relevance": "Relevance",
    "spatial_capture": "What a capture of spatial attention costs",
    "spatial_memory": "Memory of spatial attention",
    "explanation_memory": "Memory of explaining one clip",
    "explanation_time": "Time of explaining a batch",
    "training": "A training step",
    "training_families": "Where its time goes",
    "loader": "Loader",
    "scaling": "Scaling",
}
_ON_CPU = {
    "scaling": "Scaling",
    "spatial_memory": "Memory of spatial attention: what the kernels have PyTorch allocate, in Triton's interpreter",
    "explanation_memory": "Memory of explaining one clip",
    "training": "A training step of the preset small",
    "loader": "Loader",
}


def all_tables(runs: Sequence[Run], root: Path = ROOT) -> str:
    """Return the generated part of bench/README.md."""
    gpus, cpus = _by_kind(runs)
    parts = []
    for gpu in gpus:
        parts.append(f"## {gpu.name}\n" if gpu.name else "## GPU: not measured\n")
        for name, title in _ON_GPU.items():
            text = "not measured on a GPU\n" if name == "scaling" and not gpu.rows(name) else TABLES[name](gpu)
            parts += [f"### {title}\n", _provenance(gpu, name, root), text, _links(gpu, name, root)]
            if name == "training":
                parts += ["### What was promised of it\n", _provenance(gpu, name, root), promises(gpu)]
    for cpu in cpus:
        parts.append(f"## {cpu.name} (a CPU)\n\nMeasured on this CPU. It says nothing of any GPU.\n")
        for name, title in _ON_CPU.items():
            if cpu.rows(name):
                parts += [f"### {title}\n", _provenance(cpu, name, root), TABLES[name](cpu), _links(cpu, name, root)]
    return "\n".join(part for part in parts if part)


def performance(runs: Sequence[Run], root: Path = ROOT) -> str:
    """Return the generated part of README.md."""
    gpus, cpus = _by_kind(runs)
    parts = []
    for gpu in gpus:
        parts.append(f"One training step on {gpu.name or 'a GPU'}:\n")
        parts += [_provenance(gpu, "training", root), promises(gpu)]
    for device in (*gpus, *cpus):
        if claims := scaling_claims(device, PASSES[1:]):
            parts.append(f"How attention grows with frames T and feature cells HW, on {device.name} ({device.kind}):\n")
            parts.append(claims)
    parts.append("All tables, and how they were measured: [bench/README.md](bench/README.md).\n")
    return "\n".join(part for part in parts if part)


def _by_kind(runs: Sequence[Run]) -> tuple[list[Device], list[Device]]:
    """Return the GPUs, or one without a name and a measurement, and the CPUs."""
    found = devices(runs)
    gpus = [device for device in found if device.kind == "GPU"]
    return gpus or [Device()], [device for device in found if device.kind == "CPU"]


def _links(device: Device, name: str, root: Path) -> str:
    """Return links from bench/README.md to the plots of a table that are in the repository, one of each run."""
    paths = [run.folder / f"{name}.png" for run, _ in device.sources(name)]
    there = [path for path in paths if path.is_file() and path.is_relative_to(root / "bench")]
    return "".join(f"![{name}]({path.relative_to(root / 'bench').as_posix()})\n" for path in there)


def _provenance(device: Device, name: str, root: Path) -> str:
    """Return a line for each run that a table is made of, with the number of its rows where there are several."""
    sources = device.sources(name)
    lines = []
    for run, rows in sources:
        where = run.folder.relative_to(root).as_posix() if run.folder.is_relative_to(root) else run.folder.name
        share = f"- {rows} row{'s' if rows > 1 else ''} measured" if len(sources) > 1 else "Measured"
        lines.append(f"{share} {_environment(run.environment)}, {where}.\n")
    return "".join(lines)


def _environment(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    parts = [found["date"], f"commit {found.get('commit') or 'unknown'}", f"Python {found.get('python')}", versions]
    if smi := found.get("nvidia_smi"):
        parts.append(f"driver {smi.get('driver_version')}, SM clock up to {smi.get('clocks.max.sm')}")
    if found["kind"] == "CPU":
        parts.append(f"{found.get('threads')} of {found.get('cores')} cores, load {found.get('load')} when it began")
    return "; ".join(parts)


def write(runs: Sequence[Run], root: Path = ROOT, check: bool = False) -> list[Path]:
    """Write both files; return those that changed (with `check`, that would change)."""
    changed = []
    for name, marker, section in (("bench/README.md", "tables", all_tables), ("README.md", "performance", performance)):
        path = root / name
        before = path.read_text()
        after = replace_section(before, marker, section(runs, root))
        if after != before:
            changed.append(path)
            if not check:
                path.write_text(after)
    return changed


def draw_plots(runs: Sequence[Run]) -> list[Path]:
    """Draw what was measured in each run into its folder; return the files."""
    drawn = []
    for run in runs:
        device = run.environment["device"]
        if rows := run.tables.get("scaling"):
            drawn.append(run.folder / "scaling.png")
            draw_growth(rows, PASSES[1], device, drawn[-1])
        for name in ("temporal", "spatial"):
            rows = [row for row in at_paper_size(run.tables.get(name, [])) if row.get("pass") == "both"]
            if rows := _measured(rows, "microseconds", "dtype"):
                rows.sort(key=lambda row: int(row["head_dim"]))
                drawn.append(run.folder / f"{name}.png")
                title = f"{name.capitalize()} attention, 8 clips of 6 frames, {rows[0]['dtype']}, on {device}"
                names = ("D = {head_dim}", "{contender} {mode}")
                draw_bars(rows, names, "microseconds", "µs, forward and backward", title, drawn[-1])
        if rows := _measured(run.tables.get("training", []), "clips_per_second", "precision"):
            drawn.append(run.folder / "training.png")
            title = f"Training, {rows[0]['precision']}, batch {rows[0]['batch']}, on {device}"
            names = ("{preset} {attention}", "{method}")
            draw_bars(rows, names, "clips_per_second", "clips a second", title, drawn[-1])
    return drawn


def _measured(rows: Rows, value: str, precision: str) -> Rows:
    """Return the rows with a value, in the first precision that was measured."""
    rows = [row for row in rows if row.get(value)]
    return [row for row in rows if row[precision] == rows[0][precision]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which folders."""
    parser.add_argument("folders", nargs="*", type=Path, help="folders of measurements (default: bench/results)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the tables are not up to date")
    parser.add_argument("--no-plots", action="store_true", help="tables only")


def run(arguments: argparse.Namespace) -> int:
    """Write tables and plots; return 1 with --check if something is out of date."""
    folders = [folder.resolve() for folder in arguments.folders] or [RESULTS]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected one that a benchmark has written.")
    runs = read_runs(folders)
    if not runs:
        print("No measurements there: no folder below holds an environment.json. Tables say what is not measured.")
    # Tables link to the plots that are there.
    drawn = [] if arguments.no_plots or arguments.check else draw_plots(runs)
    changed = write(runs, check=arguments.check)
    if arguments.check:
        print("\n".join(f"{path} is not what the measurements give" for path in changed) or "up to date")
        return 1 if changed else 0
    print("\n".join(map(str, [*changed, *drawn])) or "nothing has changed")
    return 0
