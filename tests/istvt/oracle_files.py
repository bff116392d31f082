"""Oracle files: results of independent programs."""

from pathlib import Path

import numpy as np
import torch

from istvt import ISTVT, ISTVTConfig

DATA = Path(__file__).parent.parent / "data"


def oracle_model(name: str) -> tuple[ISTVT, dict[str, np.ndarray]]:
    """The model of an oracle file in float64, and the file's arrays."""
    arrays = dict(np.load(DATA / f"{name}.npz"))
    size = {key.removeprefix("config/"): int(value) for key, value in arrays.items() if key.startswith("config/")}
    grid = (size.pop("height"), size.pop("width"))
    model = ISTVT(ISTVTConfig(grid=grid, **size)).double().eval()
    weights = {k.removeprefix("weights/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("weights/")}
    left = model.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys
    assert all(k.startswith(("backbone.", "position_embedding")) or "class_token" in k for k in left.missing_keys)
    return model, arrays
