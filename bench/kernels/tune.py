"""Trying launch settings: what each row of a table of settings would have been worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from kernels.common.launch import Setting

# Of head dimensions, and of frames padded to a power of two.
LARGEST_BOUND = 128


def described(times: dict[Setting, float], left_out: dict[Setting, str]) -> Iterator[str]:
    """A line for each setting that was tried, the fastest first, those that were left out last."""
    for setting, spent in sorted(times.items(), key=lambda item: item[1]):
        yield f"{setting}: {spent:.1f} us"
    for setting, why in left_out.items():
        yield f"{setting}: left out: {why}"


def time_settings(
    table: dict[Any, Any],
    number: int,
    tried: Sequence[Setting],
    call: Callable[[], object],
    result: torch.Tensor,
    milliseconds: int,
) -> tuple[dict[Setting, float], dict[Setting, str]]:
    """Microseconds of each setting that works, as `call` uses `table`, and why each of the others does not.

    Args:
        table: of settings; it is left as it was.
        number: the architecture whose row is replaced.
        tried: the candidates; they are compiled several at a time before the first is timed.
        call: launches the kernel that looks into the table.
        result: what it writes.
        milliseconds: measuring time of each.
    """
    from bench.common.ahead import compile_ahead
    from bench.common.timing import time_call
    from bench.kernels.peers import reason

    def use(setting: Setting) -> None:
        table[number] = [(LARGEST_BOUND, setting)]

    def call_with(setting: Setting) -> None:
        use(setting)
        call()

    call()
    expected = result.clone()
    before, times, left_out = dict(table), {}, {}
    try:
        compile_ahead(partial(call_with, setting) for setting in tried)
        for setting in tried:
            use(setting)
            result.fill_(float("nan"))
            refused = reason(call)
            if refused is not None:
                left_out[setting] = refused
            elif not (result - expected).norm() <= 0.01 * expected.norm():
                left_out[setting] = "other numbers than those of the present setting"
            else:
                times[setting] = time_call(call, milliseconds=milliseconds).median
    finally:
        table.clear()
        table.update(before)
    call()
    return times, left_out
