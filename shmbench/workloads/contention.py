"""contention: what atomic additions cost when ranks share a word, a line, or nothing."""

from __future__ import annotations

from shmbench.cases import Case
from shmbench.errors import ValidationFailed
from shmbench.native import loops, sync
from shmbench.workloads import Context, Workload

_STRIDE_BYTES = {"one_word": 0, "false_sharing": 8, "separate_lines": 128}
_LINE_BYTES = 64


class Contention(Workload):
    """Each rank adds 1 atomically, all at once: to one word, to words of one line, to own lines."""

    name = "contention"
    summary = "atomic add by all ranks: one word, words in one line, separate lines"
    operation = "atomic add by each rank"
    drivers = ("native",)
    variants = tuple(_STRIDE_BYTES)
    uses_channel = False
    uses_region = True
    has_sizes = False
    timing_rank = None

    @classmethod
    def region_bytes(cls, case: Case) -> int:
        return max(_LINE_BYTES, case.ranks * _STRIDE_BYTES[case.variant or "one_word"])

    def __init__(self, context: Context) -> None:
        assert context.region is not None
        self._group = context.group
        stride = _STRIDE_BYTES[context.case.variant or "one_word"]
        self._address = context.region.address + context.group.rank * stride
        self._adders = 1 if stride else context.group.size

    def validate(self) -> None:
        """The word must have grown by exactly what was added to it."""
        before = sync.load64(self._address)
        self._group.barrier()
        self.batch(1000)
        self._group.barrier()
        added = sync.load64(self._address) - before
        if added != 1000 * self._adders:
            raise ValidationFailed(f"{1000 * self._adders} additions made a word grow by {added}")

    def batch(self, iterations: int) -> int:
        return loops.atomic_adds(self._address, iterations)
