from collections.abc import Iterable
from typing import NamedTuple

from typing_extensions import Buffer

PAGE_BYTES: int

MADV_NORMAL: int
MADV_RANDOM: int
MADV_SEQUENTIAL: int
MADV_WILLNEED: int
MADV_DONTNEED: int
MADV_REMOVE: int
MADV_HUGEPAGE: int
MADV_NOHUGEPAGE: int
MADV_COLD: int
MADV_PAGEOUT: int
MADV_POPULATE_READ: int
MADV_POPULATE_WRITE: int
MADV_COLLAPSE: int

MAP_SHARED: int
MAP_PRIVATE: int
MAP_ANONYMOUS: int
MAP_POPULATE: int
MAP_HUGETLB: int
HUGE_2MB: int
HUGE_1GB: int

MPOL_DEFAULT: int
MPOL_PREFERRED: int
MPOL_BIND: int
MPOL_INTERLEAVE: int

PAGE_IS_WPALLOWED: int
PAGE_IS_WRITTEN: int
PAGE_IS_FILE: int
PAGE_IS_PRESENT: int
PAGE_IS_SWAPPED: int
PAGE_IS_PFNZERO: int
PAGE_IS_HUGE: int

class CacheStat(NamedTuple):
    cached: int
    dirty: int
    writeback: int
    evicted: int
    recently_evicted: int

class Mapping:
    address: int
    length: int
    def __init__(self, length: int, *, flags: int, fd: int = -1, alignment: int = 0) -> None: ...
    def view(self) -> memoryview: ...
    def close(self) -> None: ...

def address_of(buffer: Buffer) -> int: ...
def touch_read(address: int, length: int, stride: int = 4096) -> int: ...
def touch_write(address: int, length: int, stride: int = 4096) -> None: ...
def fill(address: int, length: int, byte: int) -> None: ...
def madvise(address: int, length: int, advice: int) -> None: ...
def process_madvise(pidfd: int, ranges: Iterable[tuple[int, int]], advice: int) -> int: ...
def mincore(address: int, length: int) -> bytes: ...
def cachestat(fd: int, offset: int = 0, length: int = 0) -> CacheStat: ...
def is_dax(fd: int) -> bool: ...
def pagemap_scan(
    address: int,
    length: int,
    *,
    all_of: int = 0,
    any_of: int = 0,
    inverted: int = 0,
    returned: int = 0x7F,
) -> list[tuple[int, int, int]]: ...
def mbind(address: int, length: int, mode: int, nodes: Iterable[int]) -> None: ...
