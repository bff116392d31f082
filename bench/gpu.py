"""Everything worth knowing of one GPU within a time budget, most valuable first, into one folder.

Each section is a command of its own in a process of its own with a limit of its own: one that fails, hangs or breaks
the GPU's context costs its own numbers and no others. The folder holds environment.json (device, clocks, versions,
commit, date), sections.csv (what ran, for how long, how it ended, the clock meanwhile), the CSV files of each section
and what each printed. `python -m bench report` makes tables and pictures of it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cases import OPERATIONS
from bench.environment import environment, nvidia_smi
from bench.record import Row, new_folder, prepare_folder, write_table

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
# Between two looks at the clocks, and at the processes, while a section runs.
SECONDS_BETWEEN_SAMPLES = 10.0
SECONDS_BETWEEN_LOOKS = 0.2
# With less, nothing is worth starting.
SHORTEST_LIMIT = 5.0


@dataclass(frozen=True)
class Section:
    """One command.

    Attributes:
        name: of ``python -m bench <name>``.
        share: of the whole budget that is its own; what those before it leave is added.
        options: given where the command knows them. ``{limit}`` stands for its limit in seconds.
        at_once: an option and its values, each in a process beside the others: for what is not timed.
    """

    name: str
    share: float
    options: tuple[tuple[str, ...], ...] = ()
    at_once: tuple[str, tuple[str, ...]] | None = None


SECTIONS = (
    # Nearly all of its time is compilation.
    Section("numerics", 0.35, at_once=("--operation", OPERATIONS)),
    Section("ceilings", 0.03),
    Section("temporal", 0.1, (("--quick",),)),
    Section("spatial", 0.1, (("--quick",),)),
    Section("relevance", 0.05, (("--quick",),)),
    Section("scaling", 0.08, (("--budget", "{limit}"), ("--milliseconds", "30"))),
    Section("training", 0.25, (("--budget", "{limit}"), ("--seconds", "1"))),
    Section("loader", 0.04),
)


def seconds(text: str) -> float:
    """A duration: ``480``, ``90s``, ``8m`` or ``1h``.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; expected for example 480, 90s, 8m or 1h")
    return float(found[1]) * UNITS[found[2]]


def commands_of(section: Section, folder: Path, limit: float) -> dict[str, list[str]]:
    """What is started for a section, by the name of its log; of the options only those that its command has."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"bench.{section.name}").add_arguments(parser)
    usage = parser.format_usage()
    # What is left of the limit is for a row that was begun just in time.
    wanted = section.options
    if section.at_once is None:  # else each would write over what the others wrote: what they print is put together
        wanted = (*wanted, ("--output", str(folder)))
    options = [option.format(limit=int(0.85 * limit)) for words in wanted if words[0] in usage for option in words]
    command = [sys.executable, "-m", "bench", section.name, *options]
    if section.at_once is None:
        return {section.name: command}
    option, values = section.at_once
    return {f"{section.name}-{value}": [*command, option, value] for value in values}


Commands = Callable[[Section, Path, float], dict[str, list[str]]]


def run_sections(
    sections: Sequence[Section], folder: Path, budget: float, commands: Commands = commands_of
) -> list[Row]:
    """Run the sections one after another and write sections.csv after each, so that an interrupted visit counts too."""
    started = time.monotonic()
    rows: list[Row] = []
    for number, section in enumerate(sections):
        reserved = budget * sum(later.share for later in sections[number + 1 :])
        found = _run_section(section, folder, budget - reserved - (time.monotonic() - started), commands)
        rows += found
        write_table(folder, "sections", rows)
        for row in found:
            print(f"{row['section']}: {row['outcome']} after {row['seconds']:.0f} s", flush=True)
    return rows


def _run_section(section: Section, folder: Path, limit: float, commands: Commands) -> list[Row]:
    row: Row = {"section": section.name, "outcome": "", "seconds": 0.0, "limit_seconds": max(limit, 0.0)}
    if limit < SHORTEST_LIMIT:
        return [row | {"outcome": "not run: the budget was used up"}]
    before = set(folder.glob("*.csv"))  # looked at first: a quick section has written its own when it is asked again
    try:
        started = [_Part(name, words, folder) for name, words in commands(section, folder, limit).items()]
    except Exception as error:
        return [row | {"outcome": f"not run: {type(error).__name__}: {error}"}]
    clocks = _wait(started, time.monotonic() + limit)
    if set(folder.glob("*.csv")) == before:
        _save_printed_tables(section.name, started, folder)
    clock = {"sm_clock_lowest_mhz": min(clocks, default=None), "sm_clock_highest_mhz": max(clocks, default=None)}
    return [
        row
        | {"section": part.name, "outcome": part.outcome, "seconds": part.seconds, "command": " ".join(part.words[1:])}
        | clock
        for part in started
    ]


class _Part:
    """A process that was started for a section; it and its children are one group, and end together."""

    def __init__(self, name: str, words: list[str], folder: Path) -> None:
        self.name, self.words, self.log = name, words, folder / f"{name}.log"
        self.outcome, self.seconds, self._started = "", 0.0, time.monotonic()
        with self.log.open("w") as output:
            self._process = subprocess.Popen(
                words, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip

    def has_ended(self) -> bool:
        """Look whether it has, and note how and when."""
        code = self._process.poll()
        if code is not None and not self.outcome:
            self.outcome = "done" if code == 0 else f"failed with status {code}"
            self.seconds = time.monotonic() - self._started
        return code is not None

    def stop(self) -> None:
        """Kill it and its children, unless it has ended."""
        if self.has_ended():
            return
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.outcome, self.seconds = "stopped at its limit", time.monotonic() - self._started


def _wait(parts: Sequence[_Part], deadline: float) -> list[int]:
    """Wait until all have ended, or end them at the deadline; SM clocks in MHz meanwhile."""
    clocks: list[int] = []
    sampled = time.monotonic()
    try:
        while sum(part.has_ended() for part in parts) < len(parts) and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if time.monotonic() - sampled > SECONDS_BETWEEN_SAMPLES:
                sampled = time.monotonic()
                if found := re.match(r"\d+", nvidia_smi().get("clocks.sm", "")):
                    clocks.append(int(found[0]))
    finally:
        for part in parts:
            part.stop()
    return clocks


def _save_printed_tables(name: str, parts: Sequence[_Part], folder: Path) -> None:
    """Tables that were printed and not written, those of parts that ran at once one below the other."""
    printed = [printed_tables(part.log.read_text(errors="replace")) for part in parts]
    for number in range(max(map(len, printed))):
        rows = [row for tables in printed if number < len(tables) for row in tables[number]]
        write_table(folder, name + (f"_{number + 1}" if number else ""), rows)


def printed_tables(text: str) -> list[list[Row]]:
    """The tables in what a command printed, as :func:`bench.table.format_table` lays them out."""
    tables: list[list[Row]] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if number == 0 or not re.fullmatch(r"-+(  -+)+", line):
            continue
        spans = [match.span() for match in re.finditer(r"-+", line)]
        header = [lines[number - 1][start:end].strip() for start, end in spans]
        rows = []
        for body in lines[number + 1 :]:
            if not body.strip():
                break
            rows.append(dict(zip(header, (body[start:end].strip() for start, end in spans), strict=True)))
        tables.append(rows)
    return tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long, where to."""
    parser.add_argument("--budget", type=seconds, default=480.0, help="for example 8m (the default), 90s, 1h")
    parser.add_argument("--section", action="append", choices=[s.name for s in SECTIONS], help="only this (repeatable)")
    parser.add_argument("--commit", help="of the code, where this is a copy without its repository")
    parser.add_argument("--output", type=Path, help="folder to write into (default: bench/results/<device>/...)")


def run(arguments: argparse.Namespace) -> int:
    """Run the sections; 1 if one did not end well, 2 without a GPU."""
    import torch

    if not torch.cuda.is_available():
        print("bench gpu needs an NVIDIA GPU, and PyTorch finds none here.")
        return 2
    if arguments.output:
        folder = prepare_folder(arguments.output, environment(arguments.commit))
    else:
        folder = new_folder("visit", commit=arguments.commit)
    sections = [section for section in SECTIONS if section.name in (arguments.section or [s.name for s in SECTIONS])]
    rows = run_sections(sections, folder, arguments.budget)
    print(folder)
    return 0 if all(row["outcome"] == "done" for row in rows) else 1
