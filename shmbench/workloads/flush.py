"""flush: what it costs to get dirty pages of a mapped file onto the device, or to ask for it."""

from __future__ import annotations

from shmbench.cases import Case
from shmbench.native import mapcalls, scan
from shmbench.workloads.mappings import MappingWorkload

_VALUES = 251  # each batch writes another byte than the one before it


class Flush(MappingWorkload):
    """Make every page of a mapped file dirty, untimed; then flush them by one call.

    msync_async: msync(2) with MS_ASYNC, which Linux takes as nothing to do.
    """

    name = "flush"
    summary = "flush dirty pages of a mapped file: msync sync, msync async, fdatasync"
    operation = "dirty page of 4 KiB"
    variants = ("msync_sync", "msync_async", "fdatasync")
    regions = ("file",)
    file_sizes = (4 << 10, 4 << 20)
    fixed_iterations = 1
    _batches = 0

    @classmethod
    def operations(cls, case: Case) -> int:
        return max(1, (case.file_bytes or 0) // 4096)

    @classmethod
    def bytes_per_operation(cls, case: Case) -> int:
        return 4096

    def validate(self) -> None:
        """One pass: the file's blocks are allocated then."""
        self.before_batch(1)
        self.batch(1)

    def before_batch(self, iterations: int) -> None:
        if self.mapping is None:
            self.mapping = self.backing.map()
        self._batches += 1
        value = self._batches % _VALUES
        scan.write_each(self.mapping.address, self.backing.size_bytes, 4096, value)

    def batch(self, iterations: int) -> int:
        assert self.mapping is not None
        assert self.case.variant is not None
        return mapcalls.flush(
            self.mapping.address, self.backing.size_bytes, self.backing.fd, self.case.variant
        )
