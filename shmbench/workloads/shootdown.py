"""shootdown: what unmapping and protecting cost while other threads use the same page table."""

from __future__ import annotations

import os
import threading

from shmbench.cases import Case
from shmbench.errors import Unavailable
from shmbench.native import mapcalls, memory, scan, sync
from shmbench.native.memory import PAGE_BYTES, Mapping
from shmbench.workloads import Context
from shmbench.workloads.mappings import MappingWorkload

_THREADS_MAX = 7
_OTHER_PAGES = 16
_ANONYMOUS = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS


class Shootdown(MappingWorkload):
    """Unmap or write-protect pages while threads of the process read elsewhere, a CPU each.

    Each of those CPUs has to drop what it remembers of the page table before the call may end.
    The variants ending in alone have no such threads.
    """

    name = "shootdown"
    summary = "munmap and mprotect, with and without threads running on other CPUs"
    operation = "unmapping or protecting, and touching again"
    variants = ("unmap", "unmap_alone", "protect", "protect_alone")
    regions = ("anonymous", "memfd")
    file_sizes = (4 << 10, 2 << 20)
    max_ranks = 1

    @classmethod
    def probe(cls, case: Case) -> Unavailable | None:
        if not (case.variant or "").endswith("alone") and len(os.sched_getaffinity(0)) < 2:
            return Unavailable(
                "shootdown: there is no second CPU for the threads", "allow the process more CPUs"
            )
        return super().probe(case)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._threads: list[threading.Thread] = []
        self._others: Mapping | None = None
        self._kind, _, alone = (self.case.variant or "").partition("_")
        if not alone:
            self._start(sorted(context.helper_cpus - set(context.cpus))[:_THREADS_MAX])

    def _start(self, cpus: list[int]) -> None:
        # The first page has the word that ends the threads, the others are what they read.
        self._others = Mapping((1 + _OTHER_PAGES) * PAGE_BYTES, flags=_ANONYMOUS)
        stop = self._others.address
        memory.touch_write(stop, self._others.length)

        def read(cpu: int) -> None:
            os.sched_setaffinity(0, {cpu})
            scan.read_until(stop + PAGE_BYTES, _OTHER_PAGES * PAGE_BYTES, stop)

        self._threads = [threading.Thread(target=read, args=(cpu,)) for cpu in cpus]
        for thread in self._threads:
            thread.start()

    def validate(self) -> None:
        """Nothing is moved; map what is protected."""
        if self._kind == "protect":
            self.mapping = self.backing.map()
            memory.touch_write(self.mapping.address, self.backing.size_bytes)

    def batch(self, iterations: int) -> int:
        size = self.backing.size_bytes
        if self.mapping is not None:
            return mapcalls.protect_and_write(self.mapping.address, size, PAGE_BYTES, iterations)
        return mapcalls.map_and_unmap(
            self.backing.fd, size, self.backing.flags, True, PAGE_BYTES, iterations
        )

    def counters(self) -> dict[str, float]:
        return {"threads": float(len(self._threads))}

    def close(self) -> None:
        if self._others is not None:
            sync.store64(self._others.address, 1)
            for thread in self._threads:
                thread.join()
            self._others.close()
            self._others = None
        super().close()
