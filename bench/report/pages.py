"""Tables and plots from folders of measurements.

Writes the tables of bench/README.md and two sections of README.md between their marker comments, and draws plots into
the folders. Numbers come from the CSV files alone; what was not measured says so.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.common.record import RESULTS, Run, read_runs
from bench.report.devices import Device, devices
from bench.report.markdown import replace_section
from bench.report.plots import draw_plots
from bench.report.tables import TABLES, execution_claim, loader_claims, processor_claims, promises, scaling_claims
from bench.scaling import PASSES
from dataloading.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
_OF_CPUS = ("execute", "inference")  # tables that no GPU is asked for


def all_tables(runs: Sequence[Run], root: Path = ROOT) -> str:
    """Return the generated part of bench/README.md."""
    parts = []
    for device in _devices(runs):
        on_gpu = device.kind == "GPU"
        if on_gpu:
            parts.append(f"## {device.name or 'GPU: not measured'}\n")
        else:
            parts.append(f"## {device.name} (a CPU)\n\nMeasured on this CPU. It says nothing of any GPU.\n")
        for name, (title, written) in TABLES.items():
            if device.rows(name):
                sources = _provenance(device, name, root)
                parts += [f"### {title}\n", sources, written(device, name), _links(device, name, root)]
                if on_gpu and name == "training":
                    parts += ["### What was promised of it\n", sources, promises(device)]
        missing = [title for name, (title, _) in TABLES.items() if not device.rows(name) and name not in _OF_CPUS]
        if on_gpu and missing:
            parts.append(f"Not measured: {'; '.join(missing)}.\n")
    return "\n".join(part for part in parts if part)


def performance(runs: Sequence[Run], root: Path = ROOT) -> str:
    """Return the generated part of README.md."""
    steps, growth, reading, processors = [], [], [], []
    for device in _devices(runs):
        if device.rows("training"):
            title = f"One training step on {device.name}:\n"
            steps += [title, _provenance(device, "training", root), promises(device)]
        elif device.kind == "GPU":
            steps.append("On a GPU nothing has been measured yet: neither a training step nor the time of a kernel.\n")
        if claims := scaling_claims(device, PASSES[1:]):
            title = f"How attention grows with frames T and feature cells HW, on {device.name} ({device.kind}):\n"
            growth += [title, claims]
        if claims := loader_claims(device):
            title = f"Reading clips from a crop store instead of the videos, on {device.name} ({device.kind}):\n"
            reading += [title, "".join(f"- {claim}\n" for claim in claims)]
        if device.kind == "CPU" and (claims := processor_claims(device)):
            processors += [f"On {device.name} (a CPU):\n", "".join(f"- {claim}\n" for claim in claims)]
    last = "All tables, and how they were measured: [bench/README.md](bench/README.md).\n"
    return "\n".join(part for part in (*steps, *processors, *reading, *growth, last) if part)


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
        found = run.environment
        versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
        parts = [found["date"], f"commit {found.get('commit') or 'unknown'}", f"Python {found.get('python')}", versions]
        if smi := found.get("nvidia_smi"):
            parts.append(f"driver {smi.get('driver_version')}, SM clock up to {smi.get('clocks.max.sm')}")
        if found["kind"] == "CPU":
            cores, load = f"{found.get('threads')} of {found.get('cores')} cores", found.get("load")
            parts.append(f"{cores}, load {load} when it began")
        where = run.folder.relative_to(root).as_posix() if run.folder.is_relative_to(root) else run.folder.name
        share = f"- {rows} row{'s' if rows > 1 else ''} measured" if len(sources) > 1 else "Measured"
        lines += f"{share} {'; '.join(parts)}, {where}.\n"
    return lines


def write(runs: Sequence[Run], root: Path = ROOT, check: bool = False) -> list[Path]:
    """Write the generated sections; return the files that changed (with `check`, that would change)."""
    changed = []
    for name, section, generated in (
        ("bench/README.md", "tables", all_tables), ("README.md", "verification", verification),
        ("README.md", "performance", performance),
    ):  # fmt: skip
        path = root / name
        before = path.read_text()
        if (after := replace_section(before, section, generated(runs, root))) != before:
            changed.append(path)
            if not check:
                path.write_text(after)
    return changed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which folders."""
    parser.add_argument("folders", nargs="*", type=Path, help="folders of measurements (default: bench/results)")


def run(arguments: argparse.Namespace) -> int:
    """Write tables and plots."""
    folders = [folder.resolve() for folder in arguments.folders] or [RESULTS]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected one that a benchmark has written.")
    runs = read_runs(folders)
    if not runs:
        print("No measurements there: no folder below holds an environment.json. Tables say what is not measured.")
    drawn, changed = draw_plots(runs), write(runs)  # tables link to the plots that are there
    print("\n".join(map(str, [*changed, *drawn])) or "nothing has changed")
    return 0
