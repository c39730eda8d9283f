"""memfd_create(2): memory with a descriptor and no name, attached through /proc/PID/fd."""

from __future__ import annotations

import os

from shmbench.regions import RegionSpec
from shmbench.regions.descriptor import DescriptorRegion


class MemfdRegion(DescriptorRegion):
    """An anonymous file in memory. Its handle works for processes that may trace the creator."""

    kind = "memfd"

    @classmethod
    def _make(cls, spec: RegionSpec) -> tuple[int, str]:
        descriptor = os.memfd_create("shmbench", os.MFD_CLOEXEC)
        return descriptor, f"/proc/{os.getpid()}/fd/{descriptor}"

    @classmethod
    def _find(cls, handle: str) -> int:
        return os.open(handle, os.O_RDWR | os.O_CLOEXEC)
