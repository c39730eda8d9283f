"""What of a file range is in the page cache: the fact that decides which policy helps.

cachestat(2) counts without a look at page tables (0.5 us for 4 MiB in large folios, 28 us in small
pages), for files that are ours or writable to us. mincore(2) sees any mapping, at 14 ns a page, but
reports all of somebody else's file as resident. preadv2(2) with RWF_NOWAIT asks about one byte of
any readable file; tmpfs does not know it. A file on DAX has no pages there, and is always warm.
"""

from __future__ import annotations

import errno
import os
from typing import Literal

from shmbench.native import memory
from shmbench.native.memory import PAGE_BYTES

State = Literal["cold", "warm", "mixed"]

SAMPLES = 16  # about 20 us, once for many windows


class Residency:
    """Looks at a mapping's pages in the page cache; starts no I/O.

    Args:
        address: of the mapping, page-aligned.
        length: in bytes.
        fd: of the mapped file; None: memory without a file, or one that can't be found.
        file_offset: where in the file the mapping begins.
    """

    def __init__(self, address: int, length: int, fd: int | None, file_offset: int = 0) -> None:
        self._address = address
        self._length = length
        self._fd = fd
        self._file_offset = file_offset
        self._counts = fd is not None
        self._dax = fd is not None and memory.is_dax(fd)

    def share(self, offset: int, length: int) -> float:
        """The part of a range's pages that is in memory, 0 to 1; 1.0 where nobody tells.

        Raises:
            OSError: the range isn't mapped (any more).
        """
        start = offset // PAGE_BYTES * PAGE_BYTES
        end = min(offset + length, self._length)
        pages = -(-(end - start) // PAGE_BYTES)
        if pages <= 0 or self._dax:
            return 1.0
        if self._counts and self._fd is not None:
            try:
                found = memory.cachestat(self._fd, self._file_offset + start, end - start)
            except OSError:
                self._counts = False  # before Linux 6.5, somebody else's file, or hugetlbfs
            else:
                return min(1.0, found.cached / pages)
        if self._fd is not None and not _ours(self._fd):
            step = max(PAGE_BYTES, (end - start) // SAMPLES // PAGE_BYTES * PAGE_BYTES)
            seen = [self._byte_there(at) for at in range(start, end, step)]
            return sum(seen) / len(seen)
        found_pages = memory.mincore(self._address + start, end - start)
        return sum(page & 1 for page in found_pages) / pages

    def sample(self, offset: int = 0, length: int | None = None) -> State:
        """The state of a range, by 16 of its pages, evenly spread. Raises OSError."""
        end = self._length if length is None else min(offset + length, self._length)
        step = max(PAGE_BYTES, (end - offset) // SAMPLES)
        return self.of_pages(list(range(offset, end, step)))

    def of_pages(self, offsets: list[int]) -> State:
        """The state of the pages at these offsets, each looked at. Raises OSError."""
        there = sum(self.share(at, 1) for at in offsets)
        if there == len(offsets):
            return "warm"
        return "cold" if there == 0 else "mixed"

    def _byte_there(self, offset: int) -> bool:
        assert self._fd is not None
        try:
            return bool(
                os.preadv(self._fd, [bytearray(1)], self._file_offset + offset, os.RWF_NOWAIT)
            )
        except OSError as error:
            return error.errno != errno.EAGAIN


def _ours(fd: int) -> bool:
    """May mincore(2) tell us the truth about this file?"""
    if os.geteuid() in (0, os.fstat(fd).st_uid):
        return True
    return os.access(f"/proc/self/fd/{fd}", os.W_OK)
