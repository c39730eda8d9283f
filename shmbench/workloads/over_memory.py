"""over_memory: a file that is larger than the memory its reader may use."""

from __future__ import annotations

from typing import Any

import numpy as np

from shmbench.cases import Case
from shmbench.errors import Unavailable
from shmbench.measure import cgroup
from shmbench.workloads import Context, patterns
from shmbench.workloads.patterns import Offsets
from shmbench.workloads.reading import ReadingWorkload

_LIMIT_SHARE = 0.5  # of the file
_LIMIT_LEAST_BYTES = 32 << 20
_HOT_SHARE = 8  # one part in so many of the file is the hot one
_HOT_EVERY = 4  # after so many pages of the scan, one hot page


class OverMemory(ReadingWorkload):
    """Read a file twice in a memory cgroup that holds half of it.

    scan_twice: from end to end, and again. beside_hot: once, and after each 4 pages one of a part
    that is small enough to stay in memory, if the scan lets it.
    """

    name = "over_memory"
    summary = "read a file in a memory cgroup that holds half of it: refaults, drop behind"
    operation = "page"
    drivers = ("python",)
    variants = ("scan_twice", "beside_hot")
    regions = ("file",)
    policies = ("none", "sequential", "pageout", "drop_behind", "auto")
    caches = ("cold",)
    warm_limit = None
    max_ranks = 1
    needs_fork = True

    @classmethod
    def probe(cls, case: Case) -> Unavailable | None:
        return super().probe(case) or cgroup.probe()

    @classmethod
    def offsets(cls, case: Case) -> Offsets:
        size = case.file_bytes or 0
        if case.variant == "scan_twice":
            return np.tile(patterns.sequential(size, cls.length), 2)
        cold = patterns.sequential(size, cls.length)
        hot = patterns.random(size // _HOT_SHARE, cls.length, len(cold))
        hot = np.resize(hot, len(cold) // _HOT_EVERY)
        return np.insert(cold, np.arange(1, len(hot) + 1) * _HOT_EVERY, hot)

    def __init__(self, context: Context) -> None:
        size = context.case.file_bytes or 0
        self._limit_bytes = max(int(size * _LIMIT_SHARE), _LIMIT_LEAST_BYTES)
        super().__init__(context)
        self._cgroup = cgroup.MemoryCgroup(self._limit_bytes)
        self._before = self._cgroup.counts()

    def counters(self) -> dict[str, float]:
        after = self._cgroup.counts()
        came_back = {name: float(after[name] - count) for name, count in self._before.items()}
        return super().counters() | came_back

    def evidence(self) -> dict[str, Any]:
        return super().evidence() | {"memory_limit_bytes": self._limit_bytes}

    def close(self) -> None:
        super().close()
        self._cgroup.close()
