"""`ArrayPool`: memory of large arrays that is used again once they are gone, outside the heap.

The frames of a clip are allocated by threads that read ahead and are freed later by another one. On the heap they leave
gaps in each thread's part of it, between small things that stay: a process that trained on one crop store took 700 MB
after one epoch and 950 MB after 24. Memory from the system for each array leaves no gaps, but its pages are then
filled with zeros every time, which takes a batch of clips (52 MB) as long as half of its resampling.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref

import numpy as np

_HUGE = 8 << 20  # bytes from which pages of 2 MB pay, if the system has them: filling those with zeros is quicker


class ArrayPool:
    """Memory for arrays of similar sizes, from any thread; the most that is kept for later is `most_free` bytes."""

    def __init__(self, most_free: int) -> None:
        self._most_free = most_free
        self._free: list[mmap.mmap] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        """Return an array of any content, whose memory is used again when no array or tensor holds it anymore."""
        count = math.prod(shape)
        size = max(count * np.dtype(dtype).itemsize, 1)
        memory = self._taken()
        while memory is not None and len(memory) < size:
            memory = self._taken()  # one that is too small is given up: soon all are as large as the largest array
        if memory is None:
            memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # a kernel without them
                    memory.madvise(mmap.MADV_HUGEPAGE)
        array = np.frombuffer(memory, dtype, count)
        # Views hold this array, as its own memory is not an array's. Without a lock: a finalizer may run anywhere.
        weakref.finalize(array, self._give_back, memory).atexit = False
        return array.reshape(shape)

    def _taken(self) -> mmap.mmap | None:
        try:
            return self._free.pop()
        except IndexError:
            return None

    def _give_back(self, memory: mmap.mmap) -> None:
        if sum(map(len, [*self._free, memory])) <= self._most_free:
            self._free.append(memory)
