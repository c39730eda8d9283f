"""memfd_create(2) with MFD_HUGETLB: pages of 2 MiB or 1 GiB from the reserved pool."""

from __future__ import annotations

import errno
import os
from typing import Self

from shmbench.regions import RegionSpec, hugepages
from shmbench.regions.memfd import MemfdRegion


class HugetlbRegion(MemfdRegion):
    """A memfd of huge pages. Mapping it reserves them in the pool."""

    kind = "hugetlb"
    default_pages = "hugetlb"
    page_states = ("hugetlb", "untouched")

    @classmethod
    def _make(cls, spec: RegionSpec) -> tuple[int, str]:
        size = hugepages.flag_of(hugepages.page_bytes_for(spec.size_bytes))
        descriptor = os.memfd_create("shmbench", os.MFD_CLOEXEC | os.MFD_HUGETLB | size)
        return descriptor, f"/proc/{os.getpid()}/fd/{descriptor}"

    @classmethod
    def _page_bytes(cls, descriptor: int, spec: RegionSpec) -> int:
        return os.fstat(descriptor).st_blksize

    @classmethod
    def _reserve(cls, descriptor: int, length: int, spec: RegionSpec) -> None:
        if spec.numa != "local":
            # The pool promises nothing by node: a touch could find the node's part empty.
            os.posix_fallocate(descriptor, 0, length)

    @classmethod
    def create(cls, spec: RegionSpec) -> Self:
        """See AttachableRegion.create."""
        try:
            return super().create(spec)
        except OSError as error:
            if error.errno in (errno.ENOMEM, errno.ENOSPC, errno.EINVAL, errno.ENODEV):
                raise hugepages.shortage(cls.kind, spec.size_bytes) from error
            raise
