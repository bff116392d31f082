"""Tables and pictures from folders of measurements.

Writes the tables of bench/README.md and the performance section of README.md between their marker comments, and draws
pictures into the folders. Numbers come from the CSV files alone; what nobody measured says "not measured".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import report_tables
from bench.record import RESULTS, Recording, recordings
from bench.scaling import PASSES
from istvt.document import replace_section

ROOT = Path(__file__).resolve().parent.parent
TABLES = "tables"
PERFORMANCE = "performance"
_TITLES = {
    "temporal": "Temporal attention",
    "layer_norm_difference": "LayerNorm and difference",
    "spatial": "Spatial attention",
    "relevance": "Relevance",
}
_IN_THE_INTERPRETER = "Memory of spatial attention: what the kernels have PyTorch allocate, in Triton's interpreter"
# file, section between its markers
WRITTEN = ((Path("bench/README.md"), TABLES), (Path("README.md"), PERFORMANCE))


def tables(found: Sequence[Recording], root: Path = ROOT) -> str:
    """The generated part of bench/README.md."""
    devices = report_tables.devices(found)
    gpus = [device for device in devices if device.kind == "GPU"]
    parts = []
    for gpu in gpus or [None]:
        parts.append(f"## {gpu.name}\n" if gpu else "## GPU: not measured\n")
        operations = ("temporal", "layer_norm_difference", "spatial", "relevance")
        for title, table, text in (
            ("Ceilings", "ceilings", report_tables.ceilings(gpu)),
            ("Numerics", "numerics", report_tables.numerics(gpu)),
            *((_TITLES[name], name, report_tables.attention(gpu, name)) for name in operations),
            ("What a tape of spatial attention costs", "spatial_tape", report_tables.tape(gpu)),
            ("Memory of spatial attention", "spatial_memory", report_tables.spatial_memory(gpu)),
            ("Memory of explaining one clip", "explanation_memory", report_tables.explanation_memory(gpu)),
            ("Time of explaining a batch", "explanation_time", report_tables.explanation_time(gpu)),
            ("A training step", "training", report_tables.training(gpu)),
            ("What was promised of it", "training", report_tables.promises(gpu)),
            ("Where its time goes", "training_families", report_tables.families(gpu)),
            ("Loader", "loader", report_tables.loader(gpu)),
        ):
            sources = gpu.sources(table) if gpu else []
            parts += [f"### {title}\n", _provenance(sources, root), text, _pictures(sources, table, root)]
        parts += _scaling(gpu, root) if gpu else ["### Scaling\n", "not measured on a GPU\n"]
    for cpu in (device for device in devices if device.kind == "CPU"):
        parts.append(f"## {cpu.name} (a CPU)\n")
        parts.append("Measured on this CPU. It says nothing of any GPU.\n")
        parts += _scaling(cpu, root)
        for title, table, text in (
            (_IN_THE_INTERPRETER, "spatial_memory", report_tables.spatial_memory(cpu)),
            ("Memory of explaining one clip", "explanation_memory", report_tables.explanation_memory(cpu)),
            ("A training step of the preset small", "training", report_tables.training(cpu, ("small",))),
            ("Loader", "loader", report_tables.loader(cpu)),
        ):
            if sources := cpu.sources(table):
                parts += [f"### {title}\n", _provenance(sources, root), text]
    return "\n".join(part for part in parts if part)


def performance(found: Sequence[Recording], root: Path = ROOT) -> str:
    """The generated part of README.md."""
    devices = report_tables.devices(found)
    gpus = [device for device in devices if device.kind == "GPU"]
    parts = []
    for gpu in gpus or [None]:
        parts.append(f"One training step on {gpu.name}:\n" if gpu else "One training step on a GPU:\n")
        parts += [_provenance(gpu.sources("training") if gpu else [], root), report_tables.promises(gpu)]
    for device in devices:
        if judged := report_tables.scaling_verdicts(device):
            parts.append(f"How attention grows with frames T and feature cells HW, on {device.name} ({device.kind}):\n")
            parts.append("\n".join(f"- {row['verdict']}" for row in judged if row["pass"] != PASSES[0]) + "\n")
    parts.append("All tables, and how they were measured: [bench/README.md](bench/README.md).\n")
    return "\n".join(part for part in parts if part)


def _scaling(device: report_tables.Device, root: Path) -> list[str]:
    sources = device.sources("scaling")
    if not sources:
        return []
    text = report_tables.scaling(device)
    return ["### Scaling\n", _provenance(sources, root), text, _pictures(sources, "scaling", root)]


def _pictures(sources: Sequence[tuple[Recording, int]], table: str, root: Path) -> str:
    """Links from bench/README.md to the pictures of a table, of those in the repository: one of each recording."""
    pictures = [one.folder / f"{table}.png" for one, _ in sources]
    there = [picture for picture in pictures if picture.is_file() and picture.is_relative_to(root / "bench")]
    return "".join(f"![{table}]({picture.relative_to(root / 'bench').as_posix()})\n" for picture in there)


def _provenance(sources: Sequence[tuple[Recording, int]], root: Path) -> str:
    """A line for each recording that a table is made of, with the number of its rows where there are several."""
    lines = []
    for one, rows in sources:
        inside = one.folder.is_relative_to(root)
        where = f", {one.folder.relative_to(root).as_posix()}" if inside else f", {one.folder.name}"
        share = f"{rows} rows measured" if len(sources) > 1 else "Measured"
        lines.append(f"{share} {report_tables.provenance(one)}{where}.")
    return "\n".join(f"- {line}" for line in lines) + "\n" if len(lines) > 1 else "".join(f"{x}\n" for x in lines)


def write(found: Sequence[Recording], root: Path = ROOT, check: bool = False) -> list[Path]:
    """Write both files; returns those that changed (with ``check``, that would change)."""
    changed = []
    for name, section in WRITTEN:
        path = root / name
        before = path.read_text()
        after = replace_section(before, section, (tables if section == TABLES else performance)(found, root))
        if after != before:
            changed.append(path)
            if not check:
                path.write_text(after)
    return changed


def draw_pictures(found: Sequence[Recording]) -> list[Path]:
    """Draw what each recording holds into its folder."""
    from bench import report_pictures, scaling_picture

    drawn = []
    for one in found:
        if rows := one.tables.get("scaling"):
            drawn.append(one.folder / "scaling.png")
            scaling_picture.draw(rows, one.environment["device"], drawn[-1])
        drawn += report_pictures.draw(one)
    return drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which folders."""
    parser.add_argument("folders", nargs="*", type=Path, help="folders of measurements (default: bench/results)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the tables are not up to date")
    parser.add_argument("--no-pictures", action="store_true", help="tables only")


def run(arguments: argparse.Namespace) -> int:
    """Write tables and pictures; 1 with --check if something is out of date, 2 if a folder is not there."""
    folders = [folder.resolve() for folder in arguments.folders] or [RESULTS]
    for folder in folders:
        if not folder.is_dir():
            print(f"{folder}: no such folder; expected one that a benchmark has written.")
            return 2
    found = recordings(folders)
    if not found:
        print("No measurements there: no folder below holds an environment.json. Tables say what is not measured.")
    # Tables link to the pictures that are there.
    drawn = [] if arguments.no_pictures or arguments.check else draw_pictures(found)
    changed = write(found, check=arguments.check)
    if arguments.check:
        print("\n".join(f"{path} is not what the measurements give" for path in changed) or "up to date")
        return 1 if changed else 0
    print("\n".join(map(str, [*changed, *drawn])) or "nothing has changed")
    return 0
