"""Which rows a report is made of: of each entry of a table the newest measurement, over all runs of a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.checks.numerics import NOT_RUN
from bench.common.record import Run

Rows = list[dict[str, str]]  # as they were read

# What names an entry of a table: a row, or rows that mean something together only, and so are of one run.
_SHAPE = ("dtype", "clips", "frames", "rows", "positions", "heads", "head_dim", "channels", "pass")
CASE = ("preset", "attention", "precision", "method", "batch")
_NAMED_BY = {
    "ceilings": ("ceiling",),
    "numerics": ("kernel", "mode", "dtype", "shape"),
    **dict.fromkeys(("temporal", "layer_norm_difference", "spatial"), ("contender", "mode", "attention", *_SHAPE)),
    "relevance": ("contender", "mode", *_SHAPE),
    "spatial_capture": ("attention", *_SHAPE),
    "spatial_memory": ("capture", "dtype", "clips", "rows", "heads", "head_dim"),
    "explanation_memory": ("preset", "storage", "from"),
    "explanation_time": ("preset", "clips", "arithmetic", "training"),
    "training": CASE,
    "training_families": CASE,
    "loader": ("decoder", "device", "workers", "image_size", "batch"),
    "scaling": ("axis", "method", "pass", "dtype", "clips", "heads", "head_dim"),
}
# A row with one of these was measured; one of a method that refused or failed was not, and hides no other.
_RESULTS = ("value", "verdict", "microseconds", "peak_bytes", "explain_ms", "step_ms", "us_per_step", "time_us",
            "clips_per_second")  # fmt: skip
# Entries that are a row for each of many sizes. Few of them, as a run leaves that was cut short, say little.
_LINES_OF_SIZES = ("scaling", "spatial_memory")


@dataclass(frozen=True)
class Device:
    """What was measured of one device, in all of its runs, the newest last; no name and no run where nothing was."""

    name: str = ""
    kind: str = "GPU"
    runs: Sequence[Run] = ()

    def rows(self, table: str) -> Rows:
        """Return all entries of a table, each from the newest run that measured it.

        Of a line of sizes it is the run that measured most of them. The families of a step come from the run that its
        time comes from.
        """
        return [row for _, row in self._chosen(table)]

    def sources(self, table: str) -> list[tuple[Run, int]]:
        """Return the runs that these rows come from, the newest first, and how many measured rows of each."""
        count = Counter(run.folder for run, row in self._chosen(table) if _was_measured(row))
        return [(run, count[run.folder]) for run in reversed(self.runs) if count[run.folder]]

    def _chosen(self, table: str) -> list[tuple[Run, dict[str, str]]]:
        entries: dict[tuple[str, ...], dict[int, Rows]] = {}  # rows by entry and run, the newest run first
        for number in reversed(range(len(self.runs))):
            for row in self.runs[number].tables.get(table, []):
                entries.setdefault(entry_name(table, row), {}).setdefault(number, []).append(row)
        if table == "training_families":
            timed = {entry_name(table, row): self.runs.index(run) for run, row in self._chosen("training")}
            entries = {
                name: {n: rows for n, rows in of.items() if n == timed.get(name)} for name, of in entries.items()
            }
        limit = None if table in _LINES_OF_SIZES else 1
        best = [
            max(of.items(), key=lambda pair: _count(pair[1], limit)) for of in entries.values() if of
        ]  # first of equals
        if not any(_count(rows) for _, rows in best):
            return []
        return [(self.runs[number], row) for number, rows in best for row in rows]


def entry_name(table: str, row: dict[str, str]) -> tuple[str, ...]:
    """Return what tells an entry of a table from the others."""
    return tuple(row.get(column, "") for column in _NAMED_BY[table])


def _was_measured(row: dict[str, str]) -> bool:
    return any(row.get(column) for column in _RESULTS) and row.get("verdict") != NOT_RUN


def _count(rows: Rows, limit: int | None = None) -> int:
    """Return how many rows were measured, at most `limit`."""
    return min(sum(map(_was_measured, rows)), limit or len(rows))


def devices(runs: Sequence[Run]) -> list[Device]:
    """Return the runs by device, GPUs first."""
    names = dict.fromkeys((run.environment["device"], run.environment["kind"]) for run in runs)
    found = [Device(*key, [run for run in runs if run.environment["device"] == key[0]]) for key in names]
    return sorted(found, key=lambda device: (device.kind != "GPU", device.name))
