"""Regions: shared bytes with a lifetime. One kind a file, one line a kind below.

The life of a region in a process group: the leader calls `inherit` before it forks the ranks;
each rank calls `open` with what was inherited; each rank calls `close`. Kinds that can be attached
by processes that are no relatives (by name, or by descriptor) leave `inherit` alone: `open` lets
one rank create the region, hands its name to the others by `allgather`, and unlinks the name as
soon as all have attached. Only a kill within `open` leaves a name, and `names` knows it as stale.

Every kind reserves its memory when it is created (posix_fallocate where there is a file), so that
a full file system is an `Unavailable`, and never a SIGBUS.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

from shmbench.errors import Unavailable, UsageError
from shmbench.group import Group
from shmbench.registry import Registry

Pages = Literal["untouched", "prefault", "thp", "hugetlb"]
PAGES: tuple[Pages, ...] = ("untouched", "prefault", "thp", "hugetlb")


@dataclass(frozen=True)
class RegionSpec:
    """What a region has to be.

    Attributes:
        size_bytes: at least this much memory; kinds round up to their page size.
        pages: the page state that the case asks for. `hugetlb` is a matter of creation, the
            others are brought about by `shmbench.regions.pages.prepare`.
        directory: where `file` regions live; None for kinds that have no directory.
        numa: "local" (the kernel's default), "interleave", or "bind:N" with a node's number.
        created_by: the rank that creates and reserves the region. Reserving in tmpfs places the
            pages on that rank's NUMA node, so it is the rank that is to touch them first.

    Raises:
        UsageError: a size below 1, or no such NUMA placement.
    """

    size_bytes: int
    pages: Pages = "prefault"
    directory: str | None = None
    numa: str = "local"
    created_by: int = 0

    def __post_init__(self) -> None:
        if self.size_bytes < 1:
            raise UsageError(f"a region of {self.size_bytes} bytes", "ask for at least 1")
        if not re.fullmatch(r"local|interleave|bind:\d+", self.numa):
            raise UsageError(
                f"unknown NUMA placement {self.numa!r}",
                "choose local, interleave or bind:N (N: a node)",
            )


class Span(Protocol):
    """Shared bytes at an address of this rank: a region, or a part of one."""

    memory: memoryview
    address: int  # of memory[0]


@dataclass
class Slice:
    """A part of a region; it lives as long as the region."""

    memory: memoryview
    address: int

    @classmethod
    def of(cls, region: Span, offset: int, size_bytes: int) -> Slice:
        """The bytes from offset on."""
        return cls(region.memory[offset : offset + size_bytes], region.address + offset)


class Region(ABC):
    """Shared bytes, seen from one rank. `memory` has exactly `spec.size_bytes` bytes."""

    kind: ClassVar[str]
    default_pages: ClassVar[Pages] = "prefault"
    needs_fork: ClassVar[bool] = False  # shared by inheritance only
    needs_mpi: ClassVar[bool] = False  # the ranks have to be an MPI job's
    takes_directory: ClassVar[bool] = False  # spec.directory is meant for it

    memory: memoryview
    address: int  # of memory[0] in this rank

    @classmethod
    def probe(cls, spec: RegionSpec | None = None) -> Unavailable | None:
        """Can this machine do it (with this spec)? If not, why, and the remedy. Leaves nothing."""
        return None

    @classmethod
    def inherit(cls, spec: RegionSpec) -> Self | None:
        """What must exist before ranks are forked; None for kinds that are attached later."""
        return None

    @classmethod
    @abstractmethod
    def open(cls, group: Group, spec: RegionSpec, inherited: Self | None = None) -> Self:
        """Collective: every rank calls it, with what `inherit` gave.

        Raises:
            Unavailable: no room, no permission, or no such page size; with the remedy.
        """

    @abstractmethod
    def close(self) -> None:
        """Unmap and release; idempotent. Names are already gone by then."""


REGIONS: Registry[Region] = Registry(
    "region",
    {
        "anonymous": "shmbench.regions.anonymous:AnonymousRegion",
        "file": "shmbench.regions.file:FileRegion",
        "posix_shm": "shmbench.regions.posix_shm:PosixShmRegion",
        "memfd": "shmbench.regions.memfd:MemfdRegion",
        "hugetlb": "shmbench.regions.hugetlb:HugetlbRegion",
        "mp_shm": "shmbench.regions.mp_shm:MpShmRegion",
        "mpi_window": "shmbench.regions.mpi_window:MpiWindowRegion",
        "mpi_window_noncontig": "shmbench.regions.mpi_window:MpiWindowNoncontigRegion",
        "mpi_mmap": "shmbench.regions.mpi_window:MpiMmapRegion",
    },
    entry_point_group="shmbench.regions",
)
