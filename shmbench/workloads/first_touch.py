"""first_touch: what the first write to each page of fresh memory costs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from shmbench.cases import Case
from shmbench.errors import ValidationFailed
from shmbench.native import memory, scan
from shmbench.native.clock import monotonic_ns
from shmbench.workloads import Context
from shmbench.workloads.mappings import MappingWorkload
from shmbench.workloads.reading import with_helpers


class FirstTouch(MappingWorkload):
    """Map fresh memory and write a byte to each page.

    none: the writes fault page by page. populate: MADV_POPULATE_WRITE before the first write.
    populate_parallel: the same by a thread on each CPU, as `policy.Mapping.populate` does it.
    mapped: the mapping is kept, and so are its pages: what reusing memory is worth.
    The python driver writes by one NumPy assignment.
    """

    name = "first_touch"
    summary = "write to each page of fresh memory: anonymous, a file, a memfd, huge pages"
    operation = "page of 4 KiB"
    drivers = ("native", "python")
    policies = ("none", "populate", "populate_parallel")
    warm_limit = "mapped"
    file_sizes = (256 << 20,)
    fixed_iterations = 1
    _STEP = 4096

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._cpu = context.cpus[context.group.rank]
        self._helper_cpus = context.helper_cpus

    @classmethod
    def operations(cls, case: Case) -> int:
        return (case.file_bytes or 0) // cls._STEP

    def validate(self) -> None:
        """Every page that was written must hold what was written."""
        self.before_batch(1)
        self.batch(1)
        assert self.mapping is not None
        pages = self.backing.size_bytes // self._STEP
        found = memory.touch_read(self.mapping.address, self.backing.size_bytes, self._STEP)
        if found != pages:
            raise ValidationFailed(f"of {pages} bytes written, {found} are there")

    def before_batch(self, iterations: int) -> None:
        if self.case.policy != "mapped":
            self.unmap()
            self.backing.empty()

    def batch(self, iterations: int) -> int:
        size = self.backing.size_bytes
        start = monotonic_ns()
        if self.mapping is None:
            self.mapping = self.backing.map()
        if self.case.policy == "populate":
            memory.madvise(self.mapping.address, size, memory.MADV_POPULATE_WRITE)
        elif self.case.policy == "populate_parallel":
            self._populate_in_parallel()
        if self.case.driver == "native":
            scan.write_each(self.mapping.address, size, self._STEP, 1)
            return monotonic_ns() - start
        array = np.frombuffer(self.mapping.view(), np.uint8)
        array[:: self._STEP] = 1
        elapsed_ns = monotonic_ns() - start
        del array
        return elapsed_ns

    def evidence(self) -> dict[str, Any]:
        return super().evidence() | {"helper_cpus": sorted(self._helper_cpus)}

    def _populate_in_parallel(self) -> None:
        from shmbench import policy

        assert self.mapping is not None
        view = self.mapping.view()
        with (
            with_helpers(self._cpu, self._helper_cpus),
            policy.attach(view, hint="none") as attached,
        ):
            attached.populate(write=True, threads=len(os.sched_getaffinity(0)))
        view.release()
