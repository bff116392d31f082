"""Readers of a run's directory: checkpoints, tensors, logged losses."""

import csv
from pathlib import Path

import torch
from torch.distributed import checkpoint as dcp


def whole_checkpoints(run: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("epoch-*") if path.suffix != ".partial")


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of the run's newest checkpoint, each whole."""
    newest = whole_checkpoints(run)[-1]
    stored = dcp.FileSystemReader(newest).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(item.size, dtype=item.properties.dtype) for name, item in stored.items()}
    dcp.load(tensors, checkpoint_id=newest, no_dist=True)
    return tensors


def losses(run: Path) -> dict[int, float]:
    """By step, as written down."""
    rows = list(csv.DictReader((run / "steps.csv").open()))
    found = {int(row["step"]): float(row["loss"]) for row in rows}
    assert len(found) == len(rows), "a step is written down twice"
    return found
