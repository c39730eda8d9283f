"""Page states: bring one about, prove which one it was, and private buffers that have one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from shmbench.group import Group
from shmbench.native import memory
from shmbench.native.memory import PAGE_BYTES, Mapping
from shmbench.regions import Pages, Region, RegionSpec
from shmbench.regions.mapped import HUGE_BYTES, release, round_up
from shmbench.regions.mounts import Mount, mount_of
from shmbench.regions.smaps import MappedRange, mappings_at

_THP = Path("/sys/kernel/mm/transparent_hugepage")
_FILLING = 0x5A
_HUGE_FIELDS = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
_HUGETLB_FIELDS = ("Shared_Hugetlb", "Private_Hugetlb")

Refusal = dict[str, Any]


def _advise(address: int, length: int, name: str) -> list[Refusal]:
    """Give one hint by name; the refusal to record where the kernel will not have it."""
    try:
        memory.madvise(address, length, getattr(memory, name))
    except OSError as error:
        return [{"hint": name, "errno": error.errno, "message": os.strerror(error.errno or 0)}]
    return []


def _hint_before(address: int, length: int, pages: Pages) -> list[Refusal]:
    """What has to be said before the first touch: huge pages, or none of them."""
    if pages == "thp":
        return _advise(address, length, "MADV_HUGEPAGE")
    if pages != "hugetlb" and _THP.exists():
        # Where huge pages are given unasked, small ones have to be asked for.
        return _advise(address, length, "MADV_NOHUGEPAGE")
    return []


def _collapse(address: int, length: int) -> list[Refusal]:
    """Ask for huge pages after the touch, where the kernel gave small ones."""
    got = sum(_bytes_of(mappings_at(address, length), _HUGE_FIELDS))
    return _advise(address, length, "MADV_COLLAPSE") if got < length else []


def prepare(region: Region, spec: RegionSpec, group: Group, first_touch: int) -> dict[str, Any]:
    """Collective: bring the page state `spec.pages` about.

    untouched: nothing is touched. Otherwise rank `first_touch` writes to every page, then the
    others do, so that each rank's page table has them; with thp, MADV_HUGEPAGE comes before and,
    where it did not help, MADV_COLLAPSE after. The content stays as it is.

    Returns:
        "pages": the state asked for; "first_touch": the rank, None for untouched; "refused": what
        the kernel would not have: {"rank", "hint", "errno", "message"} each, the same in all ranks.
    """
    huge = spec.pages == "thp"
    length = round_up(spec.size_bytes, PAGE_BYTES)
    if huge:
        # The last huge page reaches beyond the bytes asked for, but never beyond the mapping.
        end = mappings_at(region.address, 1)[0].end
        length = min(round_up(spec.size_bytes, HUGE_BYTES), end - region.address)
    refused: list[Refusal] = []
    if spec.pages != "untouched":
        refused += _hint_before(region.address, length, spec.pages)
        for first in (True, False):
            if (group.rank == first_touch) is first:
                memory.touch_write(region.address, spec.size_bytes, PAGE_BYTES)
                if huge:
                    refused += _collapse(region.address, length)
            group.barrier()
    told = group.allgather(msgspec.json.encode([{"rank": group.rank, **each} for each in refused]))
    return {
        "pages": spec.pages,
        "first_touch": None if spec.pages == "untouched" else first_touch,
        "refused": [each for item in told for each in msgspec.json.decode(item)],
    }


def evidence(region: Region) -> dict[str, Any]:
    """What a region's pages are in this rank, and on which file system; see `evidence_of`."""
    return evidence_of(region.address, len(region.memory))


def evidence_of(address: int, length: int) -> dict[str, Any]:
    """What the pages of a range are in this process, by /proc/self/smaps and PAGEMAP_SCAN.

    Returns:
        "bytes": of the range, in whole pages. "page_bytes": the kernel's page size for the mapping
        (KernelPageSize). "mapped_bytes", "huge_bytes" and "hugetlb_bytes": in this process's page
        table, of them in transparent huge pages, of them from the pool; of whole mappings, so a
        range of a larger mapping shows more than its own. "present_pages": of PAGE_BYTES, in the
        range, zero pages included. "zero_pages": of those, how many are the one page of zeros that
        a never-written private page reads; None before Linux 6.7. "filesystem", "mount_options":
        of the file behind it; None where there is none that is mounted.
    """
    length = round_up(length, PAGE_BYTES)
    ranges = mappings_at(address, length)
    hugetlb = sum(_bytes_of(ranges, _HUGETLB_FIELDS))
    mapped = sum(_bytes_of(ranges, ("Rss",))) + hugetlb
    present, zero = mapped // PAGE_BYTES, None
    with suppress(OSError):  # before Linux 6.7; the None says so
        present = _count_pages(address, length, memory.PAGE_IS_PRESENT)
        zero = _count_pages(address, length, memory.PAGE_IS_PFNZERO)
    mount = _mount_behind(ranges)
    return {
        "bytes": length,
        "page_bytes": max(_bytes_of(ranges, ("KernelPageSize",)), default=PAGE_BYTES),
        "mapped_bytes": mapped,
        "huge_bytes": sum(_bytes_of(ranges, _HUGE_FIELDS)),
        "hugetlb_bytes": hugetlb,
        "present_pages": present,
        "zero_pages": zero,
        "filesystem": mount and mount.filesystem,
        "mount_options": mount and mount.options,
    }


def _bytes_of(ranges: list[MappedRange], names: tuple[str, ...]) -> list[int]:
    return [each.bytes_of.get(name, 0) for each in ranges for name in names]


def _count_pages(address: int, length: int, category: int) -> int:
    runs = memory.pagemap_scan(address, length, all_of=category)
    return sum(end - start for start, end, _ in runs) // PAGE_BYTES


def _mount_behind(ranges: list[MappedRange]) -> Mount | None:
    """The mount of the file that is mapped; None for memory that no mounted file system holds."""
    for each in ranges:
        mount = mount_of(each.path.removesuffix(" (deleted)")) if each.path[:1] == "/" else None
        # A memfd's path looks like one at the root; its device is no mounted one.
        if mount is not None and Path(mount.point).stat().st_dev == each.device:
            return mount
    return None


class PrivateBuffer:
    """A rank's own memory for messages, in a known page state.

    Args:
        size_bytes: at least 1.
        pages: prefault: 4 KiB pages, filled with a pattern that isn't zero; thp and hugetlb:
            2 MiB transparent huge pages, filled; untouched: never written, so that every read is
            of the one page of zeros.

    Attributes:
        memory: exactly `size_bytes` bytes.
        address: of the first; aligned to 2 MiB for huge pages, else to a page.
        refused: hints that the kernel would not have, as `prepare` reports them.

    Raises:
        OSError: no memory.
    """

    def __init__(self, size_bytes: int, pages: Pages) -> None:
        pages = "thp" if pages == "hugetlb" else pages
        alignment = HUGE_BYTES if pages == "thp" else PAGE_BYTES
        length = round_up(size_bytes, alignment)
        flags = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS
        self._mapping = Mapping(length, flags=flags, alignment=alignment)
        self.address = self._mapping.address
        self.memory = self._mapping.view()[:size_bytes]
        self.refused = _hint_before(self.address, length, pages)
        if pages != "untouched":
            memory.fill(self.address, length, _FILLING)
        if pages == "thp":
            self.refused += _collapse(self.address, length)

    def close(self) -> None:
        """Unmap; idempotent. Arrays made of `memory` keep it until they go."""
        release(self)
        self._mapping.close()
