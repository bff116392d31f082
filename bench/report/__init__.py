"""Tables and pictures from folders of measurements.

Writes the tables of bench/README.md and the performance section of README.md between their marker comments, and draws
pictures into the folders. Numbers come from the CSV files alone; what nobody measured says "not measured".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.common.record import RESULTS, Run, read_runs
from bench.report.markdown import replace_section
from bench.report.pages import ROOT, all_tables, performance
from dataloading.errors import InputError

# By file: its markers, and what stands between them.
WRITTEN = {
    Path("bench/README.md"): ("tables", all_tables),
    Path("README.md"): ("performance", performance),
}


def write(found: Sequence[Run], root: Path = ROOT, check: bool = False) -> list[Path]:
    """Write both files; returns those that changed (with `check`, that would change)."""
    changed = []
    for name, (marker, section) in WRITTEN.items():
        path = root / name
        before = path.read_text()
        after = replace_section(before, marker, section(found, root))
        if after != before:
            changed.append(path)
            if not check:
                path.write_text(after)
    return changed


def draw_pictures(found: Sequence[Run]) -> list[Path]:
    """Draw what each recording holds into its folder."""
    from bench.report import pictures
    from bench.scaling import picture as scaling_picture

    drawn = []
    for one in found:
        if rows := one.tables.get("scaling"):
            drawn.append(one.folder / "scaling.png")
            scaling_picture.draw(rows, one.environment["device"], drawn[-1])
        drawn += pictures.draw(one)
    return drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which folders."""
    parser.add_argument("folders", nargs="*", type=Path, help="folders of measurements (default: bench/results)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the tables are not up to date")
    parser.add_argument("--no-pictures", action="store_true", help="tables only")


def run(arguments: argparse.Namespace) -> int:
    """Write tables and pictures; 1 with --check if something is out of date."""
    folders = [folder.resolve() for folder in arguments.folders] or [RESULTS]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected one that a benchmark has written.")
    found = read_runs(folders)
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
