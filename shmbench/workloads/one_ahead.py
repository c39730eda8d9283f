"""one_ahead: many ranks read one file; does a policy of one of them help the others?"""

from __future__ import annotations

from statistics import median
from typing import ClassVar

from shmbench.cases import Case
from shmbench.native.memory import PAGE_BYTES
from shmbench.workloads import Context, patterns
from shmbench.workloads.patterns import Offsets
from shmbench.workloads.reading import ReadingWorkload

_COLD_ACCESSES = 2048  # of those without an order: each may wait for the disk


class OneAhead(ReadingWorkload):
    """All ranks read the same pages in the same order at once; only rank 0 has the policy.

    The others read through a plain mapping, as if they knew nothing of it, and the time is that of
    rank 1. With the policy none all are alike: what the others' time is held against. What comes
    into the page cache is there for all; what is mapped is mapped for rank 0 only.
    """

    name = "one_ahead"
    summary = "ranks read one file at once, and only the first has the policy: the others' time"
    operation = "page"
    variants = ("scan", "strided", "random")
    policies = ("none", "willneed", "populate", "map_ahead", "guided", "auto")
    warm_limit: ClassVar[str | None] = None
    file_sizes = (64 << 20,)
    default_ranks = 2
    min_ranks = 2
    timing_rank = 1

    def __init__(self, context: Context) -> None:
        self._elapsed_ns: list[int] = []
        super().__init__(context)

    @classmethod
    def offsets(cls, case: Case) -> Offsets:
        size = case.file_bytes or 0
        if case.variant == "scan":
            return patterns.sequential(size, PAGE_BYTES)
        if case.variant == "strided":
            return patterns.strided(size, PAGE_BYTES, 16 * PAGE_BYTES)
        pages = size // PAGE_BYTES
        count = min(pages, _COLD_ACCESSES) if case.cache == "cold" else pages
        return patterns.random(size, PAGE_BYTES, count)

    def policy_name(self) -> str:
        return super().policy_name() if self._group.rank == 0 else "none"

    def make_pass(self) -> int:
        elapsed_ns = super().make_pass()
        self._elapsed_ns.append(elapsed_ns)
        return elapsed_ns

    def figures(self) -> dict[str, float]:
        """What rank 0 itself took."""
        seconds = median(self._elapsed_ns) * 1e-9
        return {"rank_0_s": seconds / self.operations(self.case)}
