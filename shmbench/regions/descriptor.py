"""Regions behind a file descriptor: file, posix_shm, memfd and hugetlb differ in how to get one."""

from __future__ import annotations

import os
from abc import abstractmethod
from contextlib import ExitStack
from typing import Self

from shmbench.native.memory import MAP_SHARED, Mapping
from shmbench.regions import RegionSpec, numa
from shmbench.regions.attachable import AttachableRegion
from shmbench.regions.mapped import MappedRegion, check, check_memory, page_bytes_of, round_up


class DescriptorRegion(MappedRegion, AttachableRegion):
    """A mapping of a descriptor, which is open from `create` to `unlink`."""

    _handle: str | None = None
    _descriptor = -1

    @classmethod
    @abstractmethod
    def _make(cls, spec: RegionSpec) -> tuple[int, str]:
        """A new descriptor of an empty file, and the handle by which others get at it."""

    @classmethod
    @abstractmethod
    def _find(cls, handle: str) -> int:
        """A descriptor of what `_make` made in another process."""

    @classmethod
    def _remove(cls, handle: str) -> None:
        """Remove what `_make` gave a name to."""

    @classmethod
    def _page_bytes(cls, descriptor: int, spec: RegionSpec) -> int:
        """What the mapping is a multiple of, and aligned to."""
        return page_bytes_of(spec)

    @classmethod
    def _reserve(cls, descriptor: int, length: int, spec: RegionSpec) -> None:
        """Make sure that no later touch can fail for want of memory."""
        check_memory(cls.kind, length)
        os.posix_fallocate(descriptor, 0, length)

    @classmethod
    def create(cls, spec: RegionSpec) -> Self:
        """See AttachableRegion.create."""
        check(cls.kind, spec, cls.page_states)
        with ExitStack() as undo:
            descriptor, handle = cls._make(spec)
            undo.callback(os.close, descriptor)
            undo.callback(cls._remove, handle)
            page_bytes = cls._page_bytes(descriptor, spec)
            length = round_up(spec.size_bytes, page_bytes)
            os.ftruncate(descriptor, length)
            mapping = Mapping(length, flags=MAP_SHARED, fd=descriptor, alignment=page_bytes)
            undo.callback(mapping.close)
            # Reserving allocates, so the placement has to be known by then.
            numa.place(mapping.address, length, spec.numa)
            cls._reserve(descriptor, length, spec)
            region = cls(mapping, spec.size_bytes)
            region._descriptor, region._handle = descriptor, handle
            undo.pop_all()
            return region

    @classmethod
    def attach(cls, handle: str, spec: RegionSpec) -> Self:
        """See AttachableRegion.attach."""
        descriptor = cls._find(handle)
        try:
            mapping = Mapping(
                os.fstat(descriptor).st_size,
                flags=MAP_SHARED,
                fd=descriptor,
                alignment=cls._page_bytes(descriptor, spec),
            )
        finally:
            os.close(descriptor)
        return cls(mapping, spec.size_bytes)

    def handle(self) -> str:
        """See AttachableRegion.handle."""
        if self._handle is None:
            raise ValueError(f"{self.kind}: this region has no handle (any more)")
        return self._handle

    def unlink(self) -> None:
        """See AttachableRegion.unlink."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(self._descriptor)
            self._remove(handle)
