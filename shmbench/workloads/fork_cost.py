"""fork_cost: what fork(2) costs a process that has much memory mapped."""

from __future__ import annotations

from shmbench.native import mapcalls, memory
from shmbench.workloads.mappings import MappingWorkload


class ForkCost(MappingWorkload):
    """Fork a child that ends at once, and wait for it.

    The page table of anonymous memory is copied entry by entry; that of a shared file isn't, since
    its pages can be found again.
    """

    name = "fork_cost"
    summary = "fork with so much memory mapped: page tables that are copied"
    operation = "fork and wait"
    regions = ("anonymous", "file", "memfd", "hugetlb")
    file_sizes = (64 << 20, 512 << 20)

    def validate(self) -> None:
        """Have every page in the page table."""
        self.mapping = self.backing.map()
        memory.touch_write(self.mapping.address, self.backing.size_bytes)

    def batch(self, iterations: int) -> int:
        return mapcalls.fork_and_wait(iterations)
