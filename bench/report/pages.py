"""Tables and plots from folders of measurements.

Writes the tables of bench/README.md and two sections of README.md between their marker comments, and draws plots into
the folders. Numbers come from the CSV files alone; what was not measured says so.
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
from bench.report.tables import TABLES, at_paper_size, execution_claim, promises, scaling_claims
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
    "execute": "Compiled kernels, executed on this CPU",
    "scaling": "Scaling",
    "spatial_memory": "Memory of spatial attention: what the kernels have PyTorch allocate, in Triton's interpreter",
    "explanation_memory": "Memory of explaining one clip",
    "training": "A training step of the preset small",
    "loader": "Loader",
}


def all_tables(runs: Sequence[Run], root: Path = ROOT) -> str:
    """Return the generated part of bench/README.md."""
    parts = []
    for device in _devices(runs):
        on_gpu = device.kind == "GPU"
        if on_gpu:
            parts.append(f"## {device.name or 'GPU: not measured'}\n")
        else:
            parts.append(f"## {device.name} (a CPU)\n\nMeasured on this CPU. It says nothing of any GPU.\n")
        for name, title in (_ON_GPU if on_gpu else _ON_CPU).items():
            if on_gpu or device.rows(name):
                sources = _provenance(device, name, root)
                parts += [f"### {title}\n", sources, TABLES[name](device), _links(device, name, root)]
                if on_gpu and name == "training":
                    parts += ["### What was promised of it\n", sources, promises(device)]
    return "\n".join(part for part in parts if part)


def performance(runs: Sequence[Run], root: Path = ROOT) -> str:
    """Return the generated part of README.md."""
    steps, growth = [], []
    for device in _devices(runs):
        if device.kind == "GPU":
            title = f"One training step on {device.name or 'a GPU'}:\n"
            steps += [title, _provenance(device, "training", root), promises(device)]
        if claims := scaling_claims(device, PASSES[1:]):
            title = f"How attention grows with frames T and feature cells HW, on {device.name} ({device.kind}):\n"
            growth += [title, claims]
    last = "All tables, and how they were measured: [bench/README.md](bench/README.md).\n"
    return "\n".join(part for part in (*steps, *growth, last) if part)


def verification(runs: Sequence[Run], root: Path = ROOT) -> str:
    """Return the generated part of README.md about compiled kernels: of the device with the most comparisons."""
    found = max(devices(runs), key=lambda device: len(device.rows("execute")), default=Device())
    return (execution_claim(found) or "Not measured.\n") + _provenance(found, "execute", root)


def _devices(runs: Sequence[Run]) -> list[Device]:
    """Return the GPUs, or one without a name and a measurement, then the CPUs."""
    found = devices(runs)
    return found if found and found[0].kind == "GPU" else [Device(), *found]


def _links(device: Device, name: str, root: Path) -> str:
    """Return links from bench/README.md to the plots of a table that are in the repository, one of each run."""
    paths = [run.folder / f"{name}.png" for run, _ in device.sources(name)]
    there = [path for path in paths if path.is_file() and path.is_relative_to(root / "bench")]
    return "".join(f"![{name}]({path.relative_to(root / 'bench').as_posix()})\n" for path in there)


def _provenance(device: Device, name: str, root: Path) -> str:
    """Return a line for each run that a table is made of, with the number of its rows where there are several."""
    lines, sources = "", device.sources(name)
    for run, rows in sources:
        where = run.folder.relative_to(root).as_posix() if run.folder.is_relative_to(root) else run.folder.name
        share = f"- {rows} row{'s' if rows > 1 else ''} measured" if len(sources) > 1 else "Measured"
        lines += f"{share} {_environment(run.environment)}, {where}.\n"
    return lines


def _environment(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    parts = [found["date"], f"commit {found.get('commit') or 'unknown'}", f"Python {found.get('python')}", versions]
    if smi := found.get("nvidia_smi"):
        parts.append(f"driver {smi.get('driver_version')}, SM clock up to {smi.get('clocks.max.sm')}")
    if found["kind"] == "CPU":
        parts.append(f"{found.get('threads')} of {found.get('cores')} cores, load {found.get('load')} when it began")
    return "; ".join(parts)


def write(runs: Sequence[Run], root: Path = ROOT, check: bool = False) -> list[Path]:
    """Write the generated sections; return the files that changed (with `check`, that would change)."""
    changed = []
    sections = (("bench/README.md", "tables", all_tables), ("README.md", "verification", verification),
                ("README.md", "performance", performance))  # fmt: skip
    for name, marker, section in sections:
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
            drawn.append(draw_growth(rows, PASSES[1], device, run.folder / "scaling.png"))
        for name in ("temporal", "spatial"):
            rows = [row for row in at_paper_size(run.tables.get(name, [])) if row.get("pass") == "both"]
            if rows := _measured(rows, "microseconds", "dtype"):
                rows.sort(key=lambda row: int(row["head_dim"]))
                title = f"{name.capitalize()} attention, 8 clips of 6 frames, {rows[0]['dtype']}, on {device}"
                names, label = ("D = {head_dim}", "{contender} {mode}"), "µs, forward and backward"
                drawn.append(draw_bars(rows, names, "microseconds", label, title, run.folder / f"{name}.png"))
        if rows := _measured(run.tables.get("training", []), "clips_per_second", "precision"):
            title = f"Training, {rows[0]['precision']}, batch {rows[0]['batch']}, on {device}"
            names, path = ("{preset} {attention}", "{method}"), run.folder / "training.png"
            drawn.append(draw_bars(rows, names, "clips_per_second", "clips a second", title, path))
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
