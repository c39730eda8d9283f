"""Memory that MPI shares: a window that the library allocates, or memory of ours exposed as one.

MPI 4.1, 12.2.3 (MPI_Win_allocate_shared) and 12.2.1 (MPI_Win_create). All memory is in the segment
of the rank that is to touch it first; the other ranks' segments are empty.
"""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.native.memory import PAGE_BYTES
from shmbench.regions import Pages, Region, RegionSpec, Slice
from shmbench.regions.mapped import check, check_memory, release
from shmbench.regions.memfd import MemfdRegion

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

    from shmbench.group.mpi import MPIGroup


def lacking() -> Unavailable | None:
    """mpi4py isn't installed; None when it is."""
    if importlib.util.find_spec("mpi4py") is None:
        return Unavailable(
            "mpi4py is not installed", 'install it with: pip install "shmbench[mpi]"'
        )
    return None


def communicator(kind: str, group: Group) -> Intracomm:
    """The communicator of an MPI group.

    Raises:
        Unavailable: the ranks are no MPI ranks.
    """
    comm = getattr(group, "comm", None)
    if comm is None:
        raise Unavailable(f"{kind}: only MPI ranks have it", "take --launcher mpi")
    return cast("MPIGroup", group).comm


class MpiWindowRegion(Region):
    """A shared window, in one piece: MPI_Win_allocate_shared."""

    kind = "mpi_window"
    needs_mpi = True
    page_states: ClassVar[tuple[Pages, ...]] = ("untouched", "prefault")
    noncontiguous: ClassVar[bool] = False

    def __init__(self, window: Any, segment: memoryview, address: int, size_bytes: int) -> None:
        self._window = window
        part = Slice(segment, address)
        self.memory, self.address = part.memory[:size_bytes], address

    @classmethod
    def probe(cls, spec: RegionSpec | None = None) -> Unavailable | None:
        """See Region.probe: a window itself can only be made by all ranks together."""
        try:
            if spec is not None:
                check(cls.kind, spec, cls.page_states)
                cls._check_room(spec)
        except Unavailable as reason:
            return reason
        return lacking()

    @classmethod
    def _check_room(cls, spec: RegionSpec) -> None:
        if spec.numa != "local":
            raise Unavailable(
                f"{cls.kind}: the MPI library places its memory", "leave --numa at local"
            )
        check_memory(cls.kind, spec.size_bytes)
        free = shutil.disk_usage("/dev/shm").free
        if spec.size_bytes > free:  # the library would promise it, and the first touch be SIGBUS
            raise Unavailable(
                f"{cls.kind}: {spec.size_bytes:,} bytes are wanted, {free:,} are free in /dev/shm",
                "choose a smaller size, or make room",
            )

    @classmethod
    def open(cls, group: Group, spec: RegionSpec, inherited: Self | None = None) -> Self:
        """See Region.open. A library need not align to pages: more is allocated, and cut."""
        from mpi4py import MPI

        comm = communicator(cls.kind, group)
        check(cls.kind, spec, cls.page_states)
        cls._check_room(spec)
        info = MPI.Info.Create({"alloc_shared_noncontig": str(cls.noncontiguous).lower()})
        mine = spec.size_bytes + PAGE_BYTES if group.rank == spec.created_by else 0
        try:
            window = MPI.Win.Allocate_shared(mine, 1, info, comm)
        except MPI.Exception as error:
            raise Unavailable(
                f"{cls.kind}: {spec.size_bytes:,} bytes: {error.Get_error_string()}",
                "choose a smaller size, or another kind of region",
            ) from error
        finally:
            info.Free()
        segment: Any = window.Shared_query(spec.created_by)[0]
        # The creator's cut counts: segments lie alike in the page in all ranks, as shared pages do.
        cut = -segment.address % PAGE_BYTES
        cuts = group.allgather(cut.to_bytes(8, "little"))
        cut = int.from_bytes(cuts[spec.created_by], "little")
        address = segment.address + cut
        aligned = address % PAGE_BYTES == 0
        if not all(item == b"y" for item in group.allgather(b"y" if aligned else b"n")):
            window.Free()
            raise Unavailable(
                f"{cls.kind}: this MPI library maps its windows at another offset in each rank",
                "choose another kind of region, such as posix_shm",
            )
        return cls(window, memoryview(segment).cast("B")[cut:], address, spec.size_bytes)

    def close(self) -> None:
        """See Region.close; collective."""
        release(self)
        window, self._window = self._window, None
        if window is not None:
            window.Free()


class MpiWindowNoncontigRegion(MpiWindowRegion):
    """A shared window whose segments the library may place apart (alloc_shared_noncontig)."""

    kind = "mpi_window_noncontig"
    noncontiguous = True


class MpiMmapRegion(MemfdRegion):
    """A shared mapping of ours, exposed to one-sided operations: MPI_Win_create."""

    kind = "mpi_mmap"
    needs_mpi = True
    _window: Any = None

    @classmethod
    def probe(cls, spec: RegionSpec | None = None) -> Unavailable | None:
        """See Region.probe."""
        return super().probe(spec) or lacking()

    @classmethod
    def open(cls, group: Group, spec: RegionSpec, inherited: Self | None = None) -> Self:
        """See Region.open."""
        from mpi4py import MPI

        comm = communicator(cls.kind, group)
        region = super().open(group, spec, inherited)
        region._window = MPI.Win.Create(region.memory, 1, MPI.INFO_NULL, comm)
        return region

    def close(self) -> None:
        """See Region.close; collective."""
        window, self._window = self._window, None
        if window is not None:
            window.Free()
        super().close()
