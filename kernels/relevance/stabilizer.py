"""The division of the ratio rule: relevance over a sum whose terms may cancel."""

from __future__ import annotations

import torch

#: A float `eps`: the denominator grows by `eps` times the sum of the absolute contributions. `"reference"`: by
#: 1e-9, as in Chefer's code; only meaningful in float64.
Stabilizer = float | str

REFERENCE = "reference"
REFERENCE_EPS = 1e-9

# Below this a sum of absolute contributions is nothing: its quotient would overflow float32.
NOTHING = 1e-30


def check_stabilizer(stabilizer: Stabilizer) -> None:
    """Raises ValueError unless `stabilizer` is `"reference"` or a number above 0."""
    if stabilizer == REFERENCE or (not isinstance(stabilizer, str) and 0 < stabilizer < float("inf")):
        return
    raise ValueError(f'stabilizer is {stabilizer!r}; expected "reference" or a number above 0, such as 0.01.')


def ratio(
    relevance: torch.Tensor, total: torch.Tensor, magnitude: torch.Tensor, stabilizer: Stabilizer
) -> torch.Tensor:
    """`relevance / stabilized(total)`, the common factor of all contributions to `total`.

    With `total = sum_j z_j` and `magnitude = sum_j |z_j|` the relevance of contribution j is `z_j` times this:

    - `stabilizer = eps`: `R / (z + eps * sign(z) * sum_j |z_j|)`. No step amplifies by more than `1 / eps`.
    - `stabilizer = "reference"`: `R / (z + 1e-9)` (0 where z is 0), Chefer's `safe_divide`.

    Args:
        relevance: any shape.
        total: same shape.
        magnitude: same shape; not read for `"reference"`.
        stabilizer: as above.
    """
    if stabilizer == REFERENCE:
        return safe_divide(relevance, total)
    denominator = total + stabilizer * torch.sign(total) * magnitude
    something = denominator.abs() > NOTHING
    return torch.where(something, relevance / torch.where(something, denominator, 1.0), 0.0)


def safe_divide(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """`numerator / (denominator + 1e-9)`, and 0 where the denominator is 0 (Chefer's rule, sign and all)."""
    shifted = denominator + REFERENCE_EPS
    shifted = torch.where(shifted == 0, REFERENCE_EPS, shifted)
    return torch.where(denominator == 0, 0.0, numerator / shifted)
