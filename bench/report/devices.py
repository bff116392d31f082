"""Which rows a report is made of: the newest of each entry, of all recordings of a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.checks.numerics import NOT_RUN
from bench.common.record import Run

Rows = list[dict[str, str]]  # as they were read

# What names an entry of a table: a row, or rows that mean something together only, and so are of one recording.
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
    """What was measured of one device, in all of its recordings, the newest last."""

    name: str
    kind: str
    recordings: list[Run]

    def rows(self, table: str) -> Rows:
        """All entries of a table, each from the newest recording that measured it; none where nobody did.

        Of a line of sizes it is the recording that measured most of them. The families of a step come from the
        recording that its time comes from.
        """
        return [row for _, row in self._chosen(table)]

    def sources(self, table: str) -> list[tuple[Run, int]]:
        """The recordings that these rows come from, the newest first, and how many measured rows of each."""
        chosen = [(one, row) for one, row in self._chosen(table) if _was_measured(row)]
        count = Counter(one.folder for one, _ in chosen)
        return [(one, count[one.folder]) for one in reversed(self.recordings) if count[one.folder]]

    def _chosen(self, table: str) -> list[tuple[Run, dict[str, str]]]:
        entries: dict[tuple[str, ...], list[tuple[Run, Rows]]] = {}
        for one in reversed(self.recordings):
            found: dict[tuple[str, ...], Rows] = {}
            for row in one.tables.get(table, []):
                found.setdefault(entry_name(table, row), []).append(row)
            for name, rows in found.items():
                entries.setdefault(name, []).append((one, rows))
        if table == "training_families":
            timed = {entry_name(table, row): one for one, row in self._chosen("training")}
            entries = {name: [pair for pair in of if pair[0] is timed.get(name)] for name, of in entries.items()}
        weigh = _count_measured if table in _LINES_OF_SIZES else _any_measured
        best = [max(of, key=lambda pair: weigh(pair[1])) for of in entries.values() if of]  # the first of equals
        if not any(_any_measured(rows) for _, rows in best):
            return []
        return [(one, row) for one, rows in best for row in rows]


def entry_name(table: str, row: dict[str, str]) -> tuple[str, ...]:
    """What tells an entry of a table from the others."""
    return tuple(row.get(column, "") for column in _NAMED_BY[table])


def _was_measured(row: dict[str, str]) -> bool:
    return any(row.get(column) for column in _RESULTS) and row.get("verdict") != NOT_RUN


def _count_measured(rows: Rows) -> int:
    return sum(map(_was_measured, rows))


def _any_measured(rows: Rows) -> bool:
    return any(map(_was_measured, rows))


def devices(recordings: Sequence[Run]) -> list[Device]:
    """By device, GPUs first."""
    names = dict.fromkeys((one.environment["device"], one.environment["kind"]) for one in recordings)
    found = [Device(*key, [r for r in recordings if r.environment["device"] == key[0]]) for key in names]
    return sorted(found, key=lambda device: (device.kind != "GPU", device.name))
