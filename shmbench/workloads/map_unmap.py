"""map_unmap: mmap, use, munmap: what a mapping costs that isn't kept."""

from __future__ import annotations

from shmbench.cases import Case
from shmbench.native import mapcalls, memory
from shmbench.workloads.mappings import MappingWorkload


class MapUnmap(MappingWorkload):
    """Map memory, write to each of its pages (of 2 MiB: with hugetlb), unmap it.

    The pages of a file or a memfd are in memory already; those of anonymous memory are new each
    time. populate is mmap with MAP_POPULATE.
    """

    name = "map_unmap"
    summary = "mmap, touch each page and munmap, over and over"
    operation = "mapping"
    policies = ("none", "populate")
    file_sizes = (64 << 10, 2 << 20, 64 << 20)

    def validate(self) -> None:
        """Write all pages of the file once, so that they are there."""
        self.batch(1)

    def batch(self, iterations: int) -> int:
        flags = self.backing.flags
        if self.case.policy == "populate":
            flags |= memory.MAP_POPULATE
        backing = self.backing
        return mapcalls.map_and_unmap(
            backing.fd, backing.size_bytes, flags, True, backing.page_bytes, iterations
        )

    @classmethod
    def fits(cls, case: Case) -> bool:
        return case.pages is None and not (
            case.region == "hugetlb" and (case.file_bytes or 0) < 2 << 20
        )
