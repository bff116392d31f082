"""Self-subtract: the difference of each frame row to the row before it (ISTVT, section III-B), and its inverse."""

from __future__ import annotations

import torch


def self_subtract(x: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Replace each frame row by its difference to the previous one.

    `cat(x[0:2], x[2:] - x[1:-1])` along `dim`: row 0 is the temporal class row and row 1 the first frame, both
    stay as they are, so the class row never enters a difference.

    Args:
        x: any floating-point tensor with at least 2 frame rows along `dim`.
        dim: the dimension of the frame rows (`F = T + 1` of them).

    Returns:
        A tensor of the same shape and dtype.

    Raises:
        TypeError: `x` is no floating-point tensor.
        ValueError: `x` has no dimension `dim`, or fewer than 2 frame rows along it.
    """
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        found = x.dtype if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
        raise TypeError(f"self_subtract: x is {found}; it takes a floating-point tensor.")
    if x.ndim == 0 or not -x.ndim <= dim < x.ndim:
        raise ValueError(f"self_subtract: dim is {dim}, but x has {x.ndim} dimensions.")
    rows = x.shape[dim]
    if rows < 2:
        raise ValueError(f"self_subtract: x has {rows} frame rows along dim {dim}; it takes 2 or more.")
    return difference_rows(x, dim)


def difference_rows(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Apply `self_subtract` to the leading rows of a longer sequence: a single row (the class row) is allowed."""
    rows = x.shape[dim]
    if rows <= 2:
        return x
    return torch.cat((x.narrow(dim, 0, 2), x.narrow(dim, 2, rows - 2) - x.narrow(dim, 1, rows - 2)), dim)


def integrate_rows(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Undo `difference_rows`: `x_t = x'_1 + ... + x'_t` for `t >= 1`; row 0 stays as it is."""
    rows = x.shape[dim]
    if rows <= 2:
        return x
    return torch.cat((x.narrow(dim, 0, 1), x.narrow(dim, 1, rows - 1).cumsum(dim)), dim)
