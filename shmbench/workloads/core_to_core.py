"""core_to_core: what handing a cache line from one CPU to another costs. The limit of latency."""

from __future__ import annotations

from shmbench.cases import Case
from shmbench.errors import ValidationFailed
from shmbench.native import loops, sync
from shmbench.workloads import Context, Workload

_APART_BYTES = 128  # two lines: adjacent ones may be fetched together
_VALIDATED = 1000


class CoreToCore(Workload):
    """Two ranks, two words in two cache lines; nothing is copied, nothing else is read."""

    name = "core_to_core"
    summary = "hand-over of a cache line between two CPUs: the limit of latency"
    operation = "one-way hand-over"
    drivers = ("native",)
    uses_channel = False
    uses_region = True
    has_sizes = False
    max_ranks = 2
    needs_two_cpus = True

    @classmethod
    def region_bytes(cls, case: Case) -> int:
        return 2 * _APART_BYTES

    @classmethod
    def operations(cls, case: Case) -> int:
        return 2

    def __init__(self, context: Context) -> None:
        assert context.region is not None
        rank = context.group.rank
        self._initiator = rank == 0
        self._mine = context.region.address + rank * _APART_BYTES
        self._theirs = context.region.address + (1 - rank) * _APART_BYTES

    def validate(self) -> None:
        before = sync.load64(self._mine)
        self.batch(_VALIDATED)
        if (
            sync.load64(self._mine) != before + _VALIDATED
            or sync.load64(self._theirs) < before + _VALIDATED
        ):
            raise ValidationFailed("the words do not hold the number of hand-overs")

    def batch(self, iterations: int) -> int:
        return loops.hand_over(self._mine, self._theirs, iterations, self._initiator)
