"""How an allocator says that memory does not suffice: no library gives every one of its errors a type of its own."""

import re

_SAID = re.compile(r"out of memory|DefaultCPUAllocator: (can't allocate|not enough) memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of an allocator, of a GPU's (torch.OutOfMemoryError) or of a processor's."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_SAID.search(str(error))))
