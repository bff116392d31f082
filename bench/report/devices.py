"""Which rows a report is made of: of each entry of a table the newest measurement, over all runs of a device."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.common.record import Run
from bench.common.tasks import is_measured

Rows = list[dict[str, str]]  # as they were read

# What names an entry of a table: a row, or rows that mean something together only, and so are of one run.
_SHAPE = ("dtype", "clips", "frames", "rows", "positions", "heads", "head_dim", "channels", "pass")
CASE = ("preset", "attention", "precision", "method", "batch")
_NAMED_BY = {
    "training": CASE,  # before its families, which come from the run that timed the step
    "training_families": CASE,
    "ceilings": ("ceiling",),
    "numerics": ("kernel", "mode", "dtype", "shape"),
    "execute": ("sm", "kernel", "mode", "dtype", "shape"),
    **dict.fromkeys(("temporal", "layer_norm_difference", "spatial"), ("contender", "mode", "attention", *_SHAPE)),
    "relevance": ("contender", "mode", *_SHAPE),
    "spatial_capture": ("attention", *_SHAPE),
    "spatial_memory": ("capture", "dtype", "clips", "rows", "heads", "head_dim"),
    "explanation_memory": ("preset", "storage", "from"),
    "explanation_time": ("preset", "clips", "arithmetic"),
    "loader": ("source", "picture", "decoder", "device", "workers", "image_size", "batch"),
    "inference": ("task", "way", "batch", "precision", "preset"),
    "scaling": ("axis", "method", "pass", "dtype", "clips", "heads", "head_dim"),
}
# Entries that are a row for each of many sizes. Few of them, as a run leaves that was cut short, say little.
_LINES_OF_SIZES = ("scaling", "spatial_memory")


@dataclass(frozen=True)
class Device:
    """The rows that count of one device, by table, each with its run; no name and no row where nothing was measured."""

    name: str = ""
    kind: str = "GPU"
    chosen: dict[str, list[tuple[Run, dict[str, str]]]] = field(default_factory=dict)

    def rows(self, table: str) -> Rows:
        """Return all entries of a table, each from the newest run that measured it.

        Of a line of sizes it is the run that measured most of them. The families of a step come from the run that its
        time comes from.
        """
        return [row for _, row in self.chosen.get(table, [])]

    def sources(self, table: str) -> list[tuple[Run, int]]:
        """Return the runs that these rows come from, the newest first, and how many measured rows of each."""
        count = Counter(run for run, row in self.chosen.get(table, []) if is_measured(row))
        return sorted(count.items(), key=lambda pair: pair[0].environment["date"], reverse=True)


def entry_name(table: str, row: dict[str, str]) -> tuple[str, ...]:
    """Return what tells an entry of a table from the others."""
    return tuple(row.get(column, "") for column in _NAMED_BY[table])


def devices(runs: Sequence[Run]) -> list[Device]:
    """Return the devices of `runs`, which are ordered by date, GPUs first."""
    found: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in reversed(runs):
        found[run.environment["device"], run.environment["kind"]].append(run)
    measured = [Device(*key, _chosen(of_device)) for key, of_device in found.items()]
    return sorted(measured, key=lambda device: (device.kind != "GPU", device.name))


def _chosen(newest_first: list[Run]) -> dict[str, list[tuple[Run, dict[str, str]]]]:
    chosen: dict[str, list[tuple[Run, dict[str, str]]]] = {}
    for table in _NAMED_BY:
        timed = {entry_name("training", row): run for run, row in chosen.get("training", [])}
        entries: dict[tuple[str, ...], dict[Run, Rows]] = defaultdict(lambda: defaultdict(list))
        for run in newest_first:
            for row in run.tables.get(table, []):
                name = entry_name(table, row)
                if table != "training_families" or timed.get(name) is run:
                    entries[name][run].append(row)
        count = sum if table in _LINES_OF_SIZES else any
        best = [max(of.items(), key=lambda pair: count(map(is_measured, pair[1]))) for of in entries.values()]
        rows = [(run, row) for run, of_entry in best for row in of_entry]
        if any(is_measured(row) for _, row in rows):
            chosen[table] = rows
    return chosen
