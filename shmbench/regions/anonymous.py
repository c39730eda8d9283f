"""MAP_SHARED | MAP_ANONYMOUS: memory that only forked relatives share."""

from __future__ import annotations

from typing import Self

from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.native.memory import MAP_ANONYMOUS, MAP_HUGETLB, MAP_SHARED, Mapping
from shmbench.regions import RegionSpec, hugepages, numa
from shmbench.regions.mapped import (
    MappedRegion,
    check,
    check_memory,
    explained,
    page_bytes_of,
    round_up,
)


class AnonymousRegion(MappedRegion):
    """Memory without a file; `pages="hugetlb"` takes it from the pool of huge pages."""

    kind = "anonymous"
    needs_fork = True
    page_states = ("untouched", "prefault", "thp", "hugetlb")

    @classmethod
    def probe(cls, spec: RegionSpec | None = None) -> Unavailable | None:
        """See Region.probe: makes one for real, and takes it away again."""
        try:
            cls.inherit(spec or RegionSpec(1)).close()
        except Unavailable as reason:
            return reason
        return None

    @classmethod
    def inherit(cls, spec: RegionSpec) -> Self:
        """See Region.inherit.

        Raises:
            Unavailable: no memory, or no huge pages; with the remedy.
        """
        check(cls.kind, spec, cls.page_states)
        with explained(cls.kind, spec, lambda _: None):
            mapping = cls._hugetlb(spec) if spec.pages == "hugetlb" else cls._ordinary(spec)
            region = cls(mapping, spec.size_bytes)
            try:
                numa.place(mapping.address, mapping.length, spec.numa)
            except BaseException:
                region.close()
                raise
        return region

    @classmethod
    def _ordinary(cls, spec: RegionSpec) -> Mapping:
        page_bytes = page_bytes_of(spec)
        length = round_up(spec.size_bytes, page_bytes)
        check_memory(cls.kind, length)
        return Mapping(length, flags=MAP_SHARED | MAP_ANONYMOUS, alignment=page_bytes)

    @classmethod
    def _hugetlb(cls, spec: RegionSpec) -> Mapping:
        if spec.numa != "local":
            raise Unavailable(
                "anonymous: the pool of huge pages promises none of a certain NUMA node",
                "leave the NUMA placement at local, or take region hugetlb",
            )
        page_bytes = hugepages.page_bytes_for(spec.size_bytes)
        length = round_up(spec.size_bytes, page_bytes)
        flags = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | hugepages.flag_of(page_bytes)
        try:
            return Mapping(length, flags=flags, alignment=page_bytes)
        except OSError as error:
            raise hugepages.shortage(cls.kind, spec.size_bytes) from error

    @classmethod
    def open(cls, group: Group, spec: RegionSpec, inherited: Self | None = None) -> Self:
        """See Region.open."""
        if inherited is not None:
            return inherited
        if group.size == 1:
            return cls.inherit(spec)
        raise Unavailable(
            "anonymous: it is shared by inheritance only, and these ranks inherited none",
            "take --launcher process, or another kind of region such as memfd",
        )
