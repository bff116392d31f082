"""Everything worth knowing of one GPU within a time budget, most valuable first, into one folder.

Each section is a command of its own in a process of its own with a limit of its own: one that fails, hangs or breaks
the GPU's context costs its own numbers and no others. The folder holds environment.json (device, clocks, versions,
commit, date), sections.csv (what ran, for how long, how it ended), the CSV files of each section and what each printed.
`python -m bench report` makes tables and plots of it.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench.common.environment import require_gpu
from bench.common.record import Row, add_output, output_folder, read_run, write_table

# By command: the share of the whole budget that is its own; what those before it leave is added.
SECTIONS = {
    "numerics": 0.35, "ceilings": 0.03, "temporal": 0.1, "spatial": 0.1, "relevance": 0.05, "scaling": 0.08,
    "training": 0.25, "loader": 0.04,
}  # fmt: skip
SHORTEST_LIMIT = 5.0  # with less, nothing is worth starting
COMMAND = [sys.executable, "-m", "bench"]


def run_sections(sections: Mapping[str, float], folder: Path, budget: float, commit: str | None = None) -> list[Row]:
    """Run the sections one after another and write sections.csv after each, so that an interrupted visit counts too.

    A section ends itself before its limit, in time for a record begun just before.
    """
    started = time.monotonic()
    rows: list[Row] = []
    for number, name in enumerate(sections):
        began = time.monotonic()
        limit = started + budget * (1 - sum([*sections.values()][number + 1 :])) - began
        words = [*COMMAND, name, "--budget", str(int(0.85 * limit)), "--output", str(folder)]
        words += ["--commit", commit] if commit else []
        outcome = "not run: the budget was used up"
        if limit >= SHORTEST_LIMIT:
            outcome = _run(words, folder / f"{name}.log", limit)
        spent = time.monotonic() - began
        rows.append({"section": name, "outcome": outcome, "seconds": spent, "limit_seconds": max(limit, 0.0)})
        write_table(folder, "sections", rows)
        print(f"{name}: {outcome} after {spent:.0f} s", flush=True)
    return rows


def _run(words: list[str], log: Path, limit: float) -> str:
    """Run a command until it ends or its limit comes, and say how it ended.

    It and its children are one process group, which is killed at the end: a child would hold the GPU's memory.
    """
    with log.open("w") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        status = process.wait(limit)
        return f"failed with status {status}" if status else "done"
    except subprocess.TimeoutExpired:
        return "stopped at its limit"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how long and where to."""
    parser.add_argument("--section", action="append", choices=SECTIONS, help="only this (repeatable)")
    add_output(parser, budget=True)
    parser.set_defaults(budget=480.0)


def run(arguments: argparse.Namespace) -> int:
    """Run the sections; return 1 if one did not end well."""
    require_gpu("gpu")
    folder = output_folder(arguments.output, "visit", arguments.commit)
    chosen = {name: share for name, share in SECTIONS.items() if name in (arguments.section or SECTIONS)}
    rows = run_sections(chosen, folder, arguments.budget, read_run(folder).environment["commit"])
    print(folder)
    return 0 if all(row["outcome"] == "done" for row in rows) else 1
