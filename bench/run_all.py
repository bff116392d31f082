"""Everything worth knowing of one GPU within a time budget, most valuable first, into one folder.

Each section is a command of its own in a process of its own with a limit of its own: one that fails, hangs or breaks
the GPU's context costs its own numbers and no others. The folder holds environment.json (device, clocks, versions,
commit, date), sections.csv (what ran, for how long, how it ended, the clock meanwhile), the CSV files of each section
and what each printed. `python -m bench report` makes tables and plots of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.common.environment import nvidia_smi, require_gpu
from bench.common.record import Row, add_output, output_folder, read_run, write_table

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
SECONDS_BETWEEN_SAMPLES = 10.0  # of the clocks while a section runs
SHORTEST_LIMIT = 5.0  # with less, nothing is worth starting


@dataclass(frozen=True)
class Section:
    """One command.

    Attributes:
        name: of `python -m bench <name>`.
        share: of the whole budget that is its own; what those before it leave is added.
        options: of the command. `{limit}` stands for its limit in seconds, less what a record begun just in time takes.
    """

    name: str
    share: float
    options: str = ""


SECTIONS = (
    Section("numerics", 0.35, "--budget {limit}"),
    Section("ceilings", 0.03),
    Section("temporal", 0.1, "--quick"),
    Section("spatial", 0.1, "--quick"),
    Section("relevance", 0.05, "--quick"),
    Section("scaling", 0.08, "--budget {limit} --milliseconds 30"),
    Section("training", 0.25, "--budget {limit} --seconds 1"),
    Section("loader", 0.04),
)


def seconds(text: str) -> float:
    """Return the seconds of a duration: `480`, `90s`, `8m` or `1h`.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; expected for example 480, 90s, 8m or 1h")
    return float(found[1]) * UNITS[found[2]]


def command_of(section: Section, folder: Path, limit: float, commit: str | None = None) -> list[str]:
    """Return the command line of a section."""
    options = section.options.format(limit=int(0.85 * limit)).split()
    options += ["--output", str(folder), *(["--commit", commit] if commit else [])]
    return [sys.executable, "-m", "bench", section.name, *options]


CommandLine = Callable[[Section, Path, float], list[str]]


def run_sections(
    sections: Sequence[Section], folder: Path, budget: float, command: CommandLine = command_of
) -> list[Row]:
    """Run the sections one after another and write sections.csv after each, so that an interrupted visit counts too."""
    started = time.monotonic()
    rows: list[Row] = []
    for number, section in enumerate(sections, 1):
        began = time.monotonic()
        limit = started + budget * (1 - sum(later.share for later in sections[number:])) - began
        found = _run(section, folder, limit, command)
        row: Row = {"section": section.name, "outcome": "", "seconds": time.monotonic() - began} | found
        rows.append(row | {"limit_seconds": max(limit, 0.0)})
        write_table(folder, "sections", rows)
        print(f"{section.name}: {row['outcome']} after {row['seconds']:.0f} s", flush=True)
    return rows


def _run(section: Section, folder: Path, limit: float, command: CommandLine) -> Row:
    """Run a command until it ends or its limit comes, and say how it ended and what the SM clock was meanwhile.

    It and its children are one process group, which is killed at the end: a child would hold the GPU's memory.
    """
    if limit < SHORTEST_LIMIT:
        return {"outcome": "not run: the budget was used up"}
    try:
        words = command(section, folder, limit)
    except Exception as error:
        return {"outcome": f"not run: {type(error).__name__}: {error}"}
    clocks: list[int] = []
    deadline = time.monotonic() + limit
    with (folder / f"{section.name}.log").open("w") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        while process.poll() is None and (left := deadline - time.monotonic()) > 0:
            try:
                process.wait(min(left, SECONDS_BETWEEN_SAMPLES))
            except subprocess.TimeoutExpired:
                clocks += map(int, re.findall(r"^\d+", nvidia_smi().get("clocks.sm", "")))
    finally:
        status = process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    outcome = {None: "stopped at its limit", 0: "done"}.get(status, f"failed with status {status}")
    return {
        "outcome": outcome, "command": " ".join(words[1:]),
        "sm_clock_lowest_mhz": min(clocks, default=None), "sm_clock_highest_mhz": max(clocks, default=None),
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how long and where to."""
    parser.add_argument("--budget", type=seconds, default=480.0, help="for example 8m (the default), 90s, 1h")
    parser.add_argument("--section", action="append", choices=[s.name for s in SECTIONS], help="only this (repeatable)")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the sections; return 1 if one did not end well."""
    require_gpu("gpu")
    folder = output_folder(arguments.output, "visit", arguments.commit)
    command = partial(command_of, commit=read_run(folder).environment["commit"])
    sections = [section for section in SECTIONS if not arguments.section or section.name in arguments.section]
    rows = run_sections(sections, folder, arguments.budget, command)
    print(folder)
    return 0 if all(row["outcome"] == "done" for row in rows) else 1
