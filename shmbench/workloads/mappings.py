"""What workloads share that measure mapping itself: what is mapped, and how it is had anew."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from shmbench.cases import Case
from shmbench.channels import Driver
from shmbench.errors import Unavailable
from shmbench.native import memory
from shmbench.native.memory import PAGE_BYTES, Mapping
from shmbench.regions import REGIONS, RegionSpec, hugepages
from shmbench.regions.mapped import HUGE_BYTES, check_memory, round_up
from shmbench.regions.mounts import mount_of
from shmbench.regions.names import fresh_name
from shmbench.regions.pages import evidence_of
from shmbench.workloads import Context, Workload


class Backing:
    """What a rank maps: anonymous memory, or a file of its own that has no name.

    Attributes:
        fd: of the file; -1 for anonymous memory.
        flags: of mmap.
        size_bytes: whole pages of the kind that is mapped.

    Raises:
        Unavailable: no memory is left.
        OSError: the file can't be made.
    """

    def __init__(self, case: Case) -> None:
        assert case.region is not None
        assert case.file_bytes is not None
        check_memory(case.region, case.file_bytes)
        huge = case.region == "hugetlb" or case.pages == "thp"
        self.alignment = HUGE_BYTES if huge else PAGE_BYTES
        self.page_bytes = HUGE_BYTES if case.region == "hugetlb" else PAGE_BYTES
        self.size_bytes = round_up(case.file_bytes, self.page_bytes)
        self.huge = case.pages == "thp"
        self.flags = memory.MAP_SHARED
        self.fd = -1
        if case.region == "anonymous":
            self.flags = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS
        elif case.region == "file":
            self.fd = _nameless(case.directory or "/tmp")
        else:
            pages = os.MFD_HUGETLB | hugepages.flag_of(HUGE_BYTES)
            flags = pages if case.region == "hugetlb" else 0
            self.fd = os.memfd_create("shmbench", os.MFD_CLOEXEC | flags)
        self.empty()

    def empty(self) -> None:
        """Give all pages of the file back, so that the next touch is the first."""
        if self.fd >= 0:
            os.ftruncate(self.fd, 0)
            os.ftruncate(self.fd, self.size_bytes)

    def map(self, flags: int = 0) -> Mapping:
        """Map it; with huge pages asked for where the case wants them. Raises OSError."""
        mapping = Mapping(
            self.size_bytes, flags=self.flags | flags, fd=self.fd, alignment=self.alignment
        )
        if self.huge:
            memory.madvise(mapping.address, self.size_bytes, memory.MADV_HUGEPAGE)
        return mapping

    def close(self) -> None:
        """Close the file; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _nameless(directory: str) -> int:
    with suppress(OSError):  # not every file system has files that never had a name
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    path = f"{directory.rstrip('/')}/{fresh_name()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    Path(path).unlink()
    return fd


class MappingWorkload(Workload):
    """Base of workloads over a `Backing` of each rank's own."""

    family = "policy"
    drivers: ClassVar[tuple[Driver, ...]] = ("native",)
    uses_channel = False
    has_sizes = False
    regions: ClassVar[tuple[str, ...]] = ("anonymous", "file", "memfd", "hugetlb")
    file_sizes: ClassVar[tuple[int, ...]] = (64 << 20,)
    default_ranks = 1
    min_ranks = 1
    timing_rank = None
    needs_fork = True

    @classmethod
    def fits(cls, case: Case) -> bool:
        return not (case.pages == "thp" and case.region == "hugetlb")

    @classmethod
    def probe(cls, case: Case) -> Unavailable | None:
        if case.region == "hugetlb":
            size = round_up(case.file_bytes or 1, HUGE_BYTES)
            return REGIONS.get("hugetlb").probe(RegionSpec(size, "hugetlb"))
        return None

    def __init__(self, context: Context) -> None:
        self.case = context.case
        self.backing = Backing(context.case)
        self.mapping: Mapping | None = None

    def mapped_evidence(self) -> dict[str, Any]:
        """What the pages of `mapping` are, and where the file is."""
        mount = mount_of(self.case.directory) if self.case.directory else None
        shown: dict[str, Any] = {
            "filesystem": mount.filesystem if mount else self.case.region,
            "mount_options": mount and mount.options,
        }
        if self.mapping is not None:
            found = evidence_of(self.mapping.address, self.backing.size_bytes)
            shown = found | {name: value for name, value in shown.items() if value}
        return shown

    def evidence(self) -> dict[str, Any]:
        return self.mapped_evidence()

    def unmap(self) -> None:
        """Unmap `mapping`; idempotent."""
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None

    def close(self) -> None:
        self.unmap()
        self.backing.close()
