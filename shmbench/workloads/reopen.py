"""reopen: open a file, map it, use it, close it, over and over; the file's pages stay or go."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any, ClassVar

from shmbench.cases import Case
from shmbench.channels import Driver
from shmbench.errors import Unavailable, ValidationFailed
from shmbench.measure.eviction import evict, read_in
from shmbench.measure.flags import Flag
from shmbench.native import mapcalls
from shmbench.native.clock import monotonic_ns
from shmbench.native.memory import PAGE_BYTES
from shmbench.native.scan import Consumer
from shmbench.regions.fixture import FixtureSpec
from shmbench.regions.mounts import mount_of
from shmbench.workloads import Context, Workload
from shmbench.workloads.reading import COLD_TOGETHER, not_evictable

if TYPE_CHECKING:
    from shmbench.policy import MappingCache

_USED_BYTES = 8
_KIB, _MIB = 1 << 10, 1 << 20


class Reopen(Workload):
    """Open a file by its name, use its first 8 bytes or a byte of each page, and close it.

    none: open, mmap, munmap, close. mapping_cache: `shmbench.policy.MappingCache`, which keeps the
    mapping. read_call: open(path, "rb").read(), for small files.
    """

    name = "reopen"
    family = "policy"
    summary = "open, map, use and close a file: by mmap, by the mapping cache, by read"
    operation = "open, use and close"
    drivers: ClassVar[tuple[Driver, ...]] = ("python", "native")
    variants = ("first_bytes", "every_page", "read_call")
    uses_channel = False
    has_sizes = False
    regions = ("file",)
    policies = ("none", "mapping_cache")
    caches = ("cold", "warm")
    file_sizes = (4 * _KIB, _MIB, 64 * _MIB, 1024 * _MIB)
    default_ranks = 1
    min_ranks = 1
    timing_rank = None
    needs_fork = True

    @classmethod
    def fits(cls, case: Case) -> bool:
        size = case.file_bytes or 0
        if case.variant == "read_call":
            return case.driver == "python" and case.policy == "none" and size <= 64 * _MIB
        if case.variant == "every_page" and size < _MIB:
            return False
        # A cached mapping keeps its file from being evicted.
        return case.policy == "none" or (case.driver == "python" and case.cache == "warm")

    @classmethod
    def probe(cls, case: Case) -> Unavailable | None:
        return not_evictable(case.directory) if case.cache == "cold" else None

    @classmethod
    def fixture(cls, case: Case) -> FixtureSpec | None:
        assert case.file_bytes is not None
        return FixtureSpec(case.directory, case.file_bytes, named=True)

    def __init__(self, context: Context) -> None:
        assert context.fixture is not None
        self.case = context.case
        self._group = context.group
        self._file = context.fixture
        self._used = _USED_BYTES if self.case.variant != "every_page" else self._file.size_bytes
        self._consumer = Consumer(PAGE_BYTES)
        self._cold = self.case.cache == "cold"
        self.fixed_iterations = 1 if self._cold else None
        self.batches_together = COLD_TOGETHER
        self._not_evicted = 0
        self._cache: MappingCache | None = None
        if self.case.policy == "mapping_cache":
            from shmbench.policy import MappingCache

            self._cache = MappingCache()
        if not self._cold and context.group.rank == 0:
            read_in(self._file.fd, self._file.size_bytes)

    def validate(self) -> None:
        """What is used must be what pread(2) reads."""
        size = self._used
        expected = sum(
            os.pread(self._file.fd, 1, offset)[0] for offset in range(0, size, PAGE_BYTES)
        )
        if self.case.driver == "native":
            _, total = mapcalls.reopen(os.fsencode(self._file.path), size, PAGE_BYTES, 1)
        else:
            self._consumer.reset()
            self.batch(1)
            total = self._consumer.total
        if total != expected:
            raise ValidationFailed(f"{self.case.label()}: other bytes were used than pread reads")

    def before_batch(self, iterations: int) -> None:
        if self._cold and self._group.rank == 0:
            self._not_evicted += not evict(self._file.fd, self._file.size_bytes).proven

    def batch(self, iterations: int) -> int:
        if self.case.driver == "native":
            path = os.fsencode(self._file.path)
            return mapcalls.reopen(path, self._used, PAGE_BYTES, iterations)[0]
        if self._cache is not None:
            return self._by_cache(self._cache, iterations)
        return (
            self._by_read(iterations)
            if self.case.variant == "read_call"
            else self._by_map(iterations)
        )

    def _by_map(self, iterations: int) -> int:
        path, used, take = self._file.path, self._used, self._consumer.take
        start = monotonic_ns()
        for _ in range(iterations):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            os.close(fd)
            with memoryview(mapped) as view, view[:used] as part:
                take(part)
            mapped.close()
        return monotonic_ns() - start

    def _by_cache(self, cache: MappingCache, iterations: int) -> int:
        path, used, take = self._file.path, self._used, self._consumer.take
        start = monotonic_ns()
        for _ in range(iterations):
            with cache.open(path) as mapping:
                take(mapping.memory[:used])
        return monotonic_ns() - start

    def _by_read(self, iterations: int) -> int:
        path, used, take = self._file.path, self._used, self._consumer.take
        start = monotonic_ns()
        for _ in range(iterations):
            with open(path, "rb") as file:
                take(file.read()[:used])
        return monotonic_ns() - start

    def counters(self) -> dict[str, float]:
        if self._cache is None:
            return {}
        stats = self._cache.stats()
        return {"cache_hits": float(stats.hits), "cache_misses": float(stats.misses)}

    def evidence(self) -> dict[str, Any]:
        mount = mount_of(self.case.directory) if self.case.directory else None
        return {
            "filesystem": mount and mount.filesystem,
            "mount_options": mount and mount.options,
            "not_evicted_batches": self._not_evicted,
        }

    def flags(self) -> list[Flag]:
        return [Flag.NOT_EVICTED] if self._not_evicted else []

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()
