"""multiprocessing.shared_memory: what the standard library offers, through its own mapping."""

from __future__ import annotations

import os
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Self

import posix_ipc

from shmbench.native.memory import PAGE_BYTES, address_of
from shmbench.regions import RegionSpec, numa
from shmbench.regions.attachable import AttachableRegion
from shmbench.regions.mapped import check, check_memory, release, round_up
from shmbench.regions.names import fresh_name
from shmbench.regions.posix_shm import open_shared


class _Untracked(SharedMemory):
    """A SharedMemory that no resource tracker knows, and that arrays may outlive.

    The tracker is a process of its own that unlinks what it thinks was forgotten, and complains
    about names that are gone already; our names live for a moment only.
    """

    _fd: int

    def __init__(self, name: str, *, create: bool = False, size: int = 0) -> None:
        if sys.version_info >= (3, 13):
            super().__init__(name, create, size, track=False)
        else:
            calls = {"register": _ignore, "unregister": _ignore}
            real = {call: getattr(resource_tracker, call) for call in calls}
            vars(resource_tracker).update(calls)
            try:
                super().__init__(name, create, size)
            finally:
                vars(resource_tracker).update(real)

    def close(self) -> None:
        """Close; where arrays still look at it, the mapping goes with the last of them."""
        try:
            super().close()
        except BufferError:
            descriptor, self._fd = self._fd, -1
            if descriptor >= 0:
                os.close(descriptor)


def _ignore(*_: Any) -> None:
    """Stands in for the resource tracker."""


class MpShmRegion(AttachableRegion):
    """A multiprocessing SharedMemory. Python maps it, so huge pages can't be aligned for."""

    kind = "mp_shm"
    _name: str | None = None

    def __init__(self, shared: SharedMemory, size_bytes: int) -> None:
        self._shared = shared
        assert shared.buf is not None  # until it is closed
        self.memory = shared.buf[:size_bytes]
        self.address = address_of(self.memory)

    @classmethod
    def where(cls, spec: RegionSpec) -> str | None:
        """See AttachableRegion.where."""
        return "/dev/shm"

    @classmethod
    def create(cls, spec: RegionSpec) -> Self:
        """See AttachableRegion.create."""
        check(cls.kind, spec, ("untouched", "prefault"))
        length = round_up(spec.size_bytes, PAGE_BYTES)
        check_memory(cls.kind, length)
        name = fresh_name()
        region = cls(_Untracked(name, create=True, size=length), spec.size_bytes)
        region._name = name
        try:
            numa.place(region.address, length, spec.numa)
            descriptor = open_shared(f"/{name}")
            try:
                os.posix_fallocate(descriptor, 0, length)
            finally:
                os.close(descriptor)
        except BaseException:
            region.unlink()
            region.close()
            raise
        return region

    @classmethod
    def attach(cls, handle: str, spec: RegionSpec) -> Self:
        """See AttachableRegion.attach."""
        return cls(_Untracked(handle), spec.size_bytes)

    def handle(self) -> str:
        """See AttachableRegion.handle."""
        if self._name is None:
            raise ValueError("mp_shm: this region has no handle (any more)")
        return self._name

    def unlink(self) -> None:
        """See AttachableRegion.unlink."""
        name, self._name = self._name, None
        if name is not None:
            posix_ipc.unlink_shared_memory(f"/{name}")

    def close(self) -> None:
        """See Region.close."""
        release(self)
        self._shared.close()
