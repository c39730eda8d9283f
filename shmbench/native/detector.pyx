# cython: language_level=3, boundscheck=False, wraparound=False
"""The laws of transparent watching (strides.h, faultlaw.h) alone, without a thread and a mapping."""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

from typing import NamedTuple

from shmbench.native.faultlaw cimport (
    SHM_FAULT_OUT, SHM_WINDOW, shm_fault, shm_faults, shm_faults_start
)
from shmbench.native.strides cimport (
    SHM_STREAMS, shm_ahead, shm_law, shm_law_rest, shm_law_start, shm_law_step
)


class Ahead(NamedTuple):
    """`steps` units to read ahead: `pages` pages from `first` on, and again each `step` pages."""

    first: int
    step: int
    steps: int
    pages: int


cdef list _streams(shm_law *law):
    return [
        (law.streams[i].last, law.streams[i].step)
        for i in range(SHM_STREAMS)
        if law.streams[i].ahead
    ]


cdef class Detector:
    """The law alone, for those who want to see what it does: pages in, units to read out.

    Args:
        pages: how many there are; page numbers are below.
        least_step: shorter strides are left to the kernel's read-ahead, in pages.
        most_ahead: how far to read ahead, in steps.
        patience: touches that no stream explains before read-ahead is turned on again.
    """

    cdef shm_law _law

    def __cinit__(
        self, int64_t pages, *, int64_t least_step=8, int64_t most_ahead=512, int64_t patience=12
    ):
        if min(pages, least_step, most_ahead) < 1 or patience < 0:
            raise ValueError(f"no such law: {pages} pages, {least_step}, {most_ahead}, {patience}")
        shm_law_start(&self._law, pages, least_step, most_ahead, patience)

    @property
    def read_ahead_off(self) -> bool:
        """Whether the kernel's own read-ahead has to be off now."""
        return bool(self._law.read_ahead_off)

    @property
    def streams(self) -> list:
        """(last page, step) of each stream that is followed."""
        return _streams(&self._law)

    def step(self, touched) -> list:
        """A poll in which these pages, ascending and distinct, became mapped."""
        cdef list numbers = list(touched)
        cdef Py_ssize_t count = len(numbers), i
        cdef int64_t told
        if any(not 0 <= page < self._law.pages for page in numbers) or any(
            a >= b for a, b in zip(numbers, numbers[1:])
        ):
            raise ValueError("page numbers have to be ascending, distinct, and within the memory")
        cdef int64_t *pages = <int64_t *>malloc(max(1, count) * sizeof(int64_t))
        cdef shm_ahead *out = <shm_ahead *>malloc((SHM_STREAMS + count) * sizeof(shm_ahead))
        if pages == NULL or out == NULL:
            free(pages)
            free(out)
            raise MemoryError
        for i in range(count):
            pages[i] = numbers[i]
        with nogil:
            told = shm_law_step(&self._law, pages, count, out)
        result = [Ahead(out[i].first, out[i].step, out[i].steps, out[i].count) for i in range(told)]
        free(pages)
        free(out)
        return result

    def rest(self):
        """Nothing was touched for long."""
        shm_law_rest(&self._law)


cdef class FaultDetector:
    """The law of faults: a page that was missed in, units to map ahead out.

    Args:
        pages: how many there are; page numbers are below.
        least_step, most_ahead, patience: as for `Detector`.
        most_window: pages of the largest window of a sequential run, at least 16.
    """

    cdef shm_faults _law
    cdef shm_ahead _out[SHM_FAULT_OUT]

    def __cinit__(
        self,
        int64_t pages,
        *,
        int64_t least_step=8,
        int64_t most_ahead=512,
        int64_t patience=12,
        int64_t most_window=1024,
    ):
        Detector(pages, least_step=least_step, most_ahead=most_ahead, patience=patience)
        if most_window < SHM_WINDOW:
            raise ValueError(f"windows of at most {most_window} pages")
        shm_faults_start(&self._law, pages, least_step, most_ahead, patience, most_window)

    @property
    def streams(self) -> list:
        """(last page, step) of each stride that is followed."""
        return _streams(&self._law.strides)

    @property
    def windows(self) -> int:
        """Of sequential runs, and around pages without a pattern."""
        return self._law.windows

    def fault(self, int64_t page) -> list:
        """A page that is mapped by itself; what to map beside it, which may lie beyond the ends."""
        if not 0 <= page < self._law.strides.pages:
            raise ValueError(f"there is no page {page}")
        cdef int64_t told = shm_fault(&self._law, page, self._out)
        return [
            Ahead(self._out[i].first, self._out[i].step, self._out[i].steps, self._out[i].count)
            for i in range(told)
        ]
