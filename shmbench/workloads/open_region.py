"""open_region: what a shared region costs before its first byte is used."""

from __future__ import annotations

from time import monotonic_ns

from shmbench.cases import Case
from shmbench.errors import Unavailable, ValidationFailed
from shmbench.regions import REGIONS, RegionSpec
from shmbench.workloads import Context, Workload


class OpenRegion(Workload):
    """All ranks open a region of the message's size together, and close it.

    Its memory is reserved, and not touched. What the ranks tell each other to find it is part of
    the time.
    """

    name = "open_region"
    summary = "open a shared region in all ranks and close it: windows, names, descriptors"
    operation = "opening and closing"
    drivers = ("python",)
    uses_channel = False
    uses_region = True
    regions = tuple(REGIONS.names())  # it opens them by itself
    timing_rank = None

    @classmethod
    def fits(cls, case: Case) -> bool:
        return not REGIONS.get(case.region or "").needs_fork

    @classmethod
    def _spec(cls, case: Case) -> RegionSpec:
        pages = case.pages or "prefault"
        return RegionSpec(case.message_bytes or 1, pages, case.directory, case.numa or "local")

    @classmethod
    def probe(cls, case: Case) -> Unavailable | None:
        kind = REGIONS.get(case.region or "")
        if kind.needs_mpi and case.launcher != "mpi":
            return Unavailable(f"{kind.kind}: only MPI ranks have it", "take --launcher mpi")
        return kind.probe(cls._spec(case))

    def __init__(self, context: Context) -> None:
        self._group = context.group
        self._kind = REGIONS.get(context.case.region or "")
        self._of = self._spec(context.case)

    def validate(self) -> None:
        """What one rank writes into it, the others read."""
        region = self._kind.open(self._group, self._of)
        if self._group.rank == 0:
            region.memory[-1] = 7
        self._group.barrier()
        seen = region.memory[-1]
        self._group.barrier()
        region.close()
        if seen != 7:
            raise ValidationFailed(f"rank {self._group.rank}: the region isn't shared")

    def batch(self, iterations: int) -> int:
        open_, group, spec = self._kind.open, self._group, self._of
        group.barrier()
        start = monotonic_ns()
        for _ in range(iterations):
            open_(group, spec).close()
        return monotonic_ns() - start
