"""The pool of huge pages: what is free, which size to take, and what to say when there are none."""

from __future__ import annotations

from pathlib import Path

from shmbench.errors import Unavailable
from shmbench.native.memory import HUGE_1GB, HUGE_2MB
from shmbench.regions.mapped import HUGE_BYTES, round_up

GIANT_BYTES = 1 << 30
_POOLS = Path("/sys/kernel/mm/hugepages")


def _pool(page_bytes: int, name: str, pools: Path) -> int:
    try:
        return int((pools / f"hugepages-{page_bytes >> 10}kB" / name).read_text())
    except OSError:
        return 0


def free_pages(page_bytes: int, pools: Path = _POOLS) -> int:
    """How many huge pages of that size nobody has or has been promised."""
    free = _pool(page_bytes, "free_hugepages", pools)
    return free - _pool(page_bytes, "resv_hugepages", pools)


def page_bytes_for(size_bytes: int, pools: Path = _POOLS) -> int:
    """1 GiB where the size wants such pages and there are enough of them, else 2 MiB."""
    wanted = round_up(size_bytes, GIANT_BYTES) // GIANT_BYTES
    if size_bytes >= GIANT_BYTES and free_pages(GIANT_BYTES, pools) >= wanted:
        return GIANT_BYTES
    return HUGE_BYTES


def flag_of(page_bytes: int) -> int:
    """The bits that ask mmap or memfd_create for that size, beside MAP_HUGETLB or MFD_HUGETLB."""
    return HUGE_1GB if page_bytes == GIANT_BYTES else HUGE_2MB


def shortage(kind: str, size_bytes: int, pools: Path = _POOLS) -> Unavailable:
    """Why there are no huge pages for a region of that size, and how to get some."""
    wanted = round_up(size_bytes, HUGE_BYTES) // HUGE_BYTES
    reserved, free = _pool(HUGE_BYTES, "nr_hugepages", pools), free_pages(HUGE_BYTES, pools)
    if not (pools / f"hugepages-{HUGE_BYTES >> 10}kB").exists():
        return Unavailable(
            f"{kind}: this kernel has no 2 MiB huge pages", "choose another kind of region"
        )
    return Unavailable(
        f"{kind}: huge pages of 2 MiB: {wanted} wanted, {free} free (vm.nr_hugepages = {reserved})",
        f"reserve some (as root): sysctl vm.nr_hugepages={reserved - free + wanted}",
    )
