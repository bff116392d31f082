"""Everything worth knowing of one GPU within a time budget, most valuable first, into one folder.

Each section is a command of its own in a process of its own with a limit of its own: one that fails, hangs or breaks
the GPU's context costs its own numbers and no others. The folder holds environment.json (device, clocks, versions,
commit, date), sections.csv (what ran, for how long, how it ended, the clock meanwhile), the CSV files of each section
and what each printed. `python -m bench report` makes tables and pictures of it.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.__main__ import module_of
from bench.common.device_needs import require_gpu
from bench.common.environment import nvidia_smi
from bench.common.record import Row, add_output, output_folder, read_folder, write_table

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
        name: of `python -m bench <name>`.
        share: of the whole budget that is its own; what those before it leave is added.
        options: given where the command knows them. `{limit}` stands for its limit in seconds.
    """

    name: str
    share: float
    options: tuple[tuple[str, ...], ...] = ()


SECTIONS = (
    Section("numerics", 0.35, (("--budget", "{limit}"),)),
    Section("ceilings", 0.03),
    Section("temporal", 0.1, (("--quick",),)),
    Section("spatial", 0.1, (("--quick",),)),
    Section("relevance", 0.05, (("--quick",),)),
    Section("scaling", 0.08, (("--budget", "{limit}"), ("--milliseconds", "30"))),
    Section("training", 0.25, (("--budget", "{limit}"), ("--seconds", "1"))),
    Section("loader", 0.04),
)


def seconds(text: str) -> float:
    """A duration: `480`, `90s`, `8m` or `1h`.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; expected for example 480, 90s, 8m or 1h")
    return float(found[1]) * UNITS[found[2]]


def command_of(section: Section, folder: Path, limit: float, commit: str | None = None) -> list[str]:
    """What is started for a section; of the options only those that its command has."""
    parser = argparse.ArgumentParser()
    module_of(section.name).add_arguments(parser)
    usage = parser.format_usage()
    # What is left of the limit is for a row that was begun just in time.
    wanted = (*section.options, ("--output", str(folder)), *([("--commit", commit)] if commit else []))
    options = [option.format(limit=int(0.85 * limit)) for words in wanted if words[0] in usage for option in words]
    return [sys.executable, "-m", "bench", section.name, *options]


Command = Callable[[Section, Path, float], list[str]]


def run_sections(sections: Sequence[Section], folder: Path, budget: float, command: Command = command_of) -> list[Row]:
    """Run the sections one after another and write sections.csv after each, so that an interrupted visit counts too."""
    started = time.monotonic()
    rows: list[Row] = []
    for number, section in enumerate(sections):
        reserved = budget * sum(later.share for later in sections[number + 1 :])
        row = _run_section(section, folder, budget - reserved - (time.monotonic() - started), command)
        rows.append(row)
        write_table(folder, "sections", rows)
        print(f"{row['section']}: {row['outcome']} after {row['seconds']:.0f} s", flush=True)
    return rows


def _run_section(section: Section, folder: Path, limit: float, command: Command) -> Row:
    row: Row = {"section": section.name, "outcome": "", "seconds": 0.0, "limit_seconds": max(limit, 0.0)}
    if limit < SHORTEST_LIMIT:
        return row | {"outcome": "not run: the budget was used up"}
    try:
        words = command(section, folder, limit)
    except Exception as error:
        return row | {"outcome": f"not run: {type(error).__name__}: {error}"}
    started = time.monotonic()
    outcome, clocks = _run(words, folder / f"{section.name}.log", started + limit)
    return row | {
        "outcome": outcome, "seconds": time.monotonic() - started, "command": " ".join(words[1:]),
        "sm_clock_lowest_mhz": min(clocks, default=None), "sm_clock_highest_mhz": max(clocks, default=None),
    }  # fmt: skip


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this process as an error would: by way of what ends a section that is running.

    A section is a group of its own, which no signal to this process reaches.
    """

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(words: list[str], log: Path, deadline: float) -> tuple[str, list[int]]:
    """Run a command until it ends or the deadline comes: how it ended, and SM clocks in MHz meanwhile.

    It and its children are one group, and end together.
    """
    clocks: list[int] = []
    sampled = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if time.monotonic() - sampled > SECONDS_BETWEEN_SAMPLES:
                sampled = time.monotonic()
                if found := re.match(r"\d+", nvidia_smi().get("clocks.sm", "")):
                    clocks.append(int(found[0]))
    finally:
        ended = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a child that outlived it would hold the GPU's memory
        process.wait()
    if not ended:
        return "stopped at its limit", clocks
    return "done" if process.returncode == 0 else f"failed with status {process.returncode}", clocks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long, where to."""
    parser.add_argument("--budget", type=seconds, default=480.0, help="for example 8m (the default), 90s, 1h")
    parser.add_argument("--section", action="append", choices=[s.name for s in SECTIONS], help="only this (repeatable)")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the sections; 1 if one did not end well."""
    require_gpu("gpu")
    folder = output_folder(arguments.output, "visit", arguments.commit)
    command = partial(command_of, commit=read_folder(folder).environment["commit"])
    sections = [section for section in SECTIONS if section.name in (arguments.section or [s.name for s in SECTIONS])]
    with ended_by_signals():
        rows = run_sections(sections, folder, arguments.budget, command)
    print(folder)
    return 0 if all(row["outcome"] == "done" for row in rows) else 1
