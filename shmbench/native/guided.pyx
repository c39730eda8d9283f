# cython: language_level=3, boundscheck=False, wraparound=False
"""The loops of guided prefetch: what is done to each item of a known order, without the GIL.

An order is two arrays, the first byte of each item and the byte behind it, relative to `address`.
"""

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc

from shmbench.native.reach cimport Reach
from shmbench.native.views cimport part_of

from typing import NamedTuple

cdef extern from *:
    """
    #include <sys/mman.h>
    #include <unistd.h>

    #ifndef MADV_POPULATE_READ
    #define MADV_POPULATE_READ 22
    #endif
    """
    enum:
        MADV_POPULATE_READ
    int c_madvise "madvise"(void *address, size_t length, int advice) nogil

cdef extern from "announce.h" nogil:
    struct shm_span:
        int64_t start, stop
    struct shm_told:
        int64_t asked, bytes, in_memory_since
        int refused
    struct shm_announcer:
        int look
        shm_told told
    int64_t shm_page_bytes()
    bint shm_in_memory(shm_span span, int64_t page)
    int64_t shm_merge(shm_span *spans, int64_t count)
    void shm_announce(shm_announcer *announcer, const shm_span *spans, int64_t count, bint beside)
    void shm_announcer_start(shm_announcer *announcer)
    void shm_announcer_stop(shm_announcer *announcer)


class Announced(NamedTuple):
    """What an announcer has done.

    Attributes:
        asked: ranges that were not in memory, so that the kernel was asked to read them.
        bytes: of these, in whole pages.
        in_memory_since: bytes of the ranges in a row that were in memory, up to the last one.
        errno: of the last range that the kernel refused; 0: none.
    """

    asked: int
    bytes: int
    in_memory_since: int
    errno: int


cdef class Slices:
    """memory[starts[i]:stops[i]] for i from first to behind - 1, as an iterator.

    Args:
        memory: one-dimensional bytes.
        starts: of the items.
        stops: of the items.
        first: the first one's index.
        behind: the index behind the last one.
        reach: of the mapped file; None: there is no file.
        lost: called with the index of an item that the file no longer reaches to; it may raise.
    """

    cdef object _memory, _lost
    cdef Reach _reach
    cdef const int64_t[::1] _starts, _stops
    cdef Py_ssize_t _at, _behind

    def __cinit__(
        self,
        memory,
        const int64_t[::1] starts,
        const int64_t[::1] stops,
        Py_ssize_t first,
        Py_ssize_t behind,
        Reach reach=None,
        lost=None,
    ):
        _check(starts, stops, first, behind)
        self._memory = memory
        self._reach = reach
        self._lost = lost
        if reach is not None:
            reach.refresh()
        self._starts = starts
        self._stops = stops
        self._at = first
        self._behind = behind

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t at = self._at
        if at == self._behind:
            raise StopIteration
        self._at = at + 1
        if self._reach is not None and not self._reach.reaches(self._stops[at]):
            self._lost(at)
        return part_of(self._memory, self._starts[at], self._stops[at] - self._starts[at])


cdef int _check(
    const int64_t[::1] starts, const int64_t[::1] stops, Py_ssize_t first, Py_ssize_t behind
) except -1:
    if not 0 <= first <= behind <= min(starts.shape[0], stops.shape[0]):
        raise IndexError(f"items {first} to {behind} of {starts.shape[0]}")
    return 0


def first_outside(
    const int64_t[::1] starts, const int64_t[::1] stops, int64_t limit
) -> int:
    """The first item that is not within `limit` bytes or ends before it begins; -1: there is none."""
    _check(starts, stops, 0, starts.shape[0])
    cdef Py_ssize_t i, found = -1
    with nogil:
        for i in range(starts.shape[0]):
            if starts[i] < 0 or stops[i] < starts[i] or stops[i] > limit:
                found = i
                break
    return found


def affordable(
    const int64_t[::1] starts, const int64_t[::1] stops, Py_ssize_t most, int64_t budget
) -> int:
    """How many of the first `most` items fit into `budget` bytes of whole pages."""
    _check(starts, stops, 0, most)
    cdef Py_ssize_t i = 0
    cdef int64_t page = shm_page_bytes()
    with nogil:
        while i < most:
            budget -= ((stops[i] + page - 1) & ~(page - 1)) - (starts[i] & ~(page - 1))
            if budget < 0:
                break
            i += 1
    return i


cdef shm_span _pages(uintptr_t address, int64_t start, int64_t stop, int64_t page) noexcept nogil:
    # The whole pages of an item; none where it is empty.
    cdef shm_span span
    span.start = (address + start) & ~(page - 1)
    span.stop = (address + stop + page - 1) & ~(page - 1) if start < stop else span.start
    return span


cdef class Announcer:
    """Asks the kernel to start reading items (MADV_WILLNEED), without the GIL, by a thread or not.

    A forked child does not have the thread; there, announcing takes the caller's time.

    Args:
        look: leave out ranges that mincore finds in memory; False where mincore tells nothing.
    """

    cdef shm_announcer *_announcer

    def __cinit__(self, *, bint look=True):
        self._announcer = <shm_announcer *>calloc(1, sizeof(shm_announcer))
        if self._announcer == NULL:
            raise MemoryError
        self._announcer.look = look
        shm_announcer_start(self._announcer)

    def announce(
        self,
        uintptr_t address,
        const int64_t[::1] starts,
        const int64_t[::1] stops,
        Py_ssize_t first,
        Py_ssize_t behind,
        *,
        bint beside=True,
    ) -> None:
        """Announce the items from first to behind - 1; pages that overlap or touch as one range.

        Args:
            beside: by the thread; False: by the caller, still without the GIL.
        """
        _check(starts, stops, first, behind)
        cdef Py_ssize_t i
        cdef int64_t count = 0, page = shm_page_bytes()
        cdef shm_span *spans = <shm_span *>malloc(max(1, behind - first) * sizeof(shm_span))
        if spans == NULL:
            raise MemoryError
        with nogil:
            for i in range(first, behind):
                if starts[i] < stops[i]:
                    spans[count] = _pages(address, starts[i], stops[i], page)
                    count += 1
            shm_announce(self._announcer, spans, shm_merge(spans, count), beside)
            free(spans)

    def told(self) -> Announced:
        """What has been done so far."""
        told = self._announcer.told
        return Announced(told.asked, told.bytes, told.in_memory_since, told.refused)

    def close(self):
        """Forget what has not been announced yet, and end the thread; idempotent."""
        with nogil:
            shm_announcer_stop(self._announcer)

    def __dealloc__(self):
        if self._announcer != NULL:
            with nogil:
                shm_announcer_stop(self._announcer)
            free(self._announcer)


def populate(
    uintptr_t address,
    const int64_t[::1] starts,
    const int64_t[::1] stops,
    Py_ssize_t first,
    Py_ssize_t behind,
) -> tuple[int, int]:
    """Map the items from first to behind - 1, waiting for their bytes (MADV_POPULATE_READ).

    Items that follow each other are mapped by one call.

    Returns:
        (behind, 0), or an item and the errno: of those that begin there one can't be mapped: EFAULT where a load
        would be SIGBUS, EINTR where a signal came first, EINVAL before Linux 5.14.
    """
    _check(starts, stops, first, behind)
    cdef Py_ssize_t i, after
    cdef int64_t page = shm_page_bytes()
    cdef shm_span span, other
    cdef int error = 0
    with nogil:
        i = first
        while i < behind:
            span = _pages(address, starts[i], stops[i], page)
            after = i + 1
            while after < behind:
                other = _pages(address, starts[after], stops[after], page)
                if not span.start <= other.start <= span.stop:
                    break
                span.stop = max(span.stop, other.stop)
                after += 1
            if c_madvise(<void *>span.start, span.stop - span.start, MADV_POPULATE_READ):
                error = errno
                break
            i = after
    return i, error


def in_sequence(
    const int64_t[::1] starts, const int64_t[::1] stops, Py_ssize_t behind
) -> bool:
    """Whether three of four items up to behind - 1 go on where the one before ends, or within it."""
    _check(starts, stops, 0, behind)
    cdef Py_ssize_t i, following = 0
    cdef int64_t page = shm_page_bytes()
    with nogil:
        for i in range(1, behind):
            following += starts[i - 1] < starts[i] < stops[i - 1] + page
    return behind > 1 and 4 * following >= 3 * (behind - 1)


def in_memory(
    uintptr_t address,
    const int64_t[::1] starts,
    const int64_t[::1] stops,
    Py_ssize_t first,
    Py_ssize_t behind,
    Py_ssize_t step=1,
) -> bool:
    """Whether mincore(2) finds all pages of every step-th item from first to behind - 1 in memory."""
    _check(starts, stops, first, behind)
    if step < 1:
        raise ValueError(f"a step of {step} items")
    cdef Py_ssize_t i = first
    cdef int64_t page = shm_page_bytes()
    cdef bint found = True
    with nogil:
        while found and i < behind:
            found = shm_in_memory(_pages(address, starts[i], stops[i], page), page)
            i += step
    return found
