"""Which pages of this process are mapped, by /proc/self/pagemap (see proc(5))."""

import numpy as np
import numpy.typing as npt

from shmbench.native.memory import PAGE_BYTES


def mapped_pages(address: int, size: int) -> npt.NDArray[np.bool_]:
    """Whether each page from the one with the address on is mapped; `size` in bytes."""
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(address // PAGE_BYTES * 8)
        entries = np.frombuffer(file.read(-(-size // PAGE_BYTES) * 8), np.uint64)
    return entries >> np.uint64(63) == 1
