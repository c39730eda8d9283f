"""Regions that a process attaches by a handle: one rank creates, the others attach, the name goes.

The collective part is here, once. It promises that a failure in any rank is the same `Unavailable`
in every rank, that no rank waits for one that has given up, and that no name outlives `open`
unless the creator is killed within it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import msgspec

from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.regions import Region, RegionSpec
from shmbench.regions.mapped import explained


class _News(msgspec.Struct):
    """What a rank tells the others after its step."""

    handle: str | None = None
    failure: str | None = None
    remedy: str | None = None


def _exchange(group: Group, news: _News) -> list[_News]:
    """Collective: everybody's news; raises in every rank what failed in the first that failed."""
    everyone = [
        msgspec.msgpack.decode(item, type=_News)
        for item in group.allgather(msgspec.msgpack.encode(news))
    ]
    for each in everyone:
        if each.failure is not None:
            raise Unavailable(each.failure, each.remedy)
    return everyone


class AttachableRegion(Region):
    """A region with a handle. A kind says how to create, attach and unlink; `open` is here."""

    @classmethod
    @abstractmethod
    def create(cls, spec: RegionSpec) -> Self:
        """Make it new, mode 0600, sized, placed and reserved.

        Raises:
            OSError, Unavailable: it can't be made; nothing is left behind.
        """

    @classmethod
    @abstractmethod
    def attach(cls, handle: str, spec: RegionSpec) -> Self:
        """Map what another process created with an equal spec.

        Raises:
            OSError: it isn't there, or isn't ours to map.
        """

    @abstractmethod
    def handle(self) -> str:
        """What `attach` needs in any process of this user; until `unlink`."""

    @abstractmethod
    def unlink(self) -> None:
        """Take the handle away; who has attached keeps the memory. Idempotent."""

    @classmethod
    def where(cls, spec: RegionSpec) -> str | None:
        """The directory in which the region has a name for a moment; None: it has none."""
        return None

    @classmethod
    def probe(cls, spec: RegionSpec | None = None) -> Unavailable | None:
        """See Region.probe: makes one for real, and takes it away again."""
        spec = spec or RegionSpec(1, cls.default_pages)
        try:
            with explained(cls.kind, spec, cls.where):
                region = cls.create(spec)
        except Unavailable as reason:
            return reason
        region.unlink()
        region.close()
        return None

    @classmethod
    def open(cls, group: Group, spec: RegionSpec, inherited: Self | None = None) -> Self:
        """See Region.open."""
        region: Self | None = None

        def step(handle: str | None) -> _News:
            nonlocal region
            try:
                with explained(cls.kind, spec, cls.where):
                    region = cls.create(spec) if handle is None else cls.attach(handle, spec)
            except Unavailable as reason:
                return _News(failure=reason.message, remedy=reason.remedy)
            return _News(handle=region.handle() if handle is None else None)

        creator = group.rank == spec.created_by
        try:
            handle = _exchange(group, step(None) if creator else _News())[spec.created_by].handle
            _exchange(group, _News() if creator else step(handle))
            assert region is not None  # a step that made none has raised
            if creator:
                region.unlink()
        except BaseException:
            if region is not None:
                region.unlink()
                region.close()
            raise
        return region
