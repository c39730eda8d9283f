"""Cold files: take a file's pages out of the page cache, and prove that they are gone.

posix_fadvise(2) with POSIX_FADV_DONTNEED is a request: pages that are dirty, locked, mapped by
anybody, or just being looked at stay. tmpfs and ramfs have nowhere to put them and ignore it. So
the pages are counted before and after: by cachestat(2), or by mincore(2) before Linux 6.5. A file
on DAX has no pages there, and counts as one whose pages can't go.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Literal, NamedTuple

from shmbench.native import memory
from shmbench.native.memory import PAGE_BYTES

_ATTEMPTS = 5
_PAUSE_S = 0.002
# Of a file's pages; a few are held for a moment by whoever looked at them last.
_RESIDENT_SHARE_MAX = 0.001


Proof = Literal["cachestat", "mincore", "dax"]


class Residency(NamedTuple):
    """How many of a file's pages are in memory, and which call says so.

    mincore tells everybody but the file's owner, and who may write it, that all pages are there.
    """

    pages: int
    proof: Proof


class Eviction(NamedTuple):
    """What an eviction did: the file's pages, and those in memory before and after."""

    pages: int
    before: int
    after: int
    proof: Proof

    @property
    def proven(self) -> bool:
        """Is the file cold: next to none of its pages in memory?"""
        return self.after <= self.pages * _RESIDENT_SHARE_MAX


def residency(fd: int, size_bytes: int) -> Residency:
    """The pages of an open file that are in memory.

    Raises:
        OSError: the file can't be mapped.
    """
    if memory.is_dax(fd):
        return Residency(-(-size_bytes // PAGE_BYTES), "dax")
    try:
        return Residency(memory.cachestat(fd).cached, "cachestat")
    except OSError:  # before Linux 6.5, or somebody else's file
        with mmap.mmap(fd, size_bytes, prot=mmap.PROT_READ) as mapped:
            address = memory.address_of(mapped)
            found = memory.mincore(address, size_bytes)
            return Residency(sum(byte & 1 for byte in found), "mincore")


def evict(fd: int, size_bytes: int) -> Eviction:
    """Write a file's dirty pages back and drop all of them; never changes its content.

    Nobody may have it mapped. The file may be open for reading only.

    Raises:
        OSError: it can't be synchronised, or not be asked.
    """
    pages = -(-size_bytes // PAGE_BYTES)
    before = residency(fd, size_bytes)
    os.fdatasync(fd)
    for attempt in range(_ATTEMPTS):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        after = residency(fd, size_bytes)
        found = Eviction(pages, before.pages, after.pages, after.proof)
        if found.proven:
            break
        time.sleep(_PAUSE_S * attempt)
    return found


def read_in(fd: int, size_bytes: int) -> Residency:
    """Make a file warm: read all of it; gives what is in memory then. Raises OSError."""
    buffer = bytearray(1 << 20)
    for offset in range(0, size_bytes, len(buffer)):
        os.preadv(fd, [buffer], offset)
    return residency(fd, size_bytes)
