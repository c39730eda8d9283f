# cython: language_level=3, boundscheck=False, wraparound=False
"""A helper thread that brings pages in ahead of their use, on another CPU and without the GIL."""

from libc.errno cimport ESHUTDOWN
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t, uintptr_t
from libc.stdlib cimport free, malloc

from shmbench.native.endpoint cimport check

from typing import NamedTuple

from shmbench.native import memory

cdef extern from "prefetch.h" nogil:
    enum:
        SHM_ERRNOS
        SHM_TOUCH
        SHM_QUEUE
    struct shm_job:
        uintptr_t address
        size_t length
        int action
    struct shm_helper:
        unsigned count
        int running
        uint64_t calls, bytes, dropped, cancelled
        uint64_t errors[SHM_ERRNOS]
    int shm_helper_init(shm_helper *h, size_t piece)
    int shm_helper_submit(shm_helper *h, const shm_job *jobs, size_t count)
    void shm_helper_cancel(shm_helper *h)
    void shm_helper_drain(shm_helper *h)
    void shm_helper_close(shm_helper *h)

WILLNEED = memory.MADV_WILLNEED
POPULATE_READ = memory.MADV_POPULATE_READ
POPULATE_WRITE = memory.MADV_POPULATE_WRITE
PAGEOUT = memory.MADV_PAGEOUT
TOUCH = SHM_TOUCH
QUEUE_LENGTH = SHM_QUEUE


class Counters(NamedTuple):
    """What a helper thread has done so far.

    Attributes:
        calls: system calls.
        bytes: asked for, and not refused by the kernel.
        dropped: jobs that made room in a full queue.
        cancelled_bytes: queued, and given up by `cancel` or `close`.
        errors: how often, by errno; EFAULT is a file that shrank or a file system that is full.
    """

    calls: int
    bytes: int
    dropped: int
    cancelled_bytes: int
    errors: dict


cdef class Prefetcher:
    """A thread and its queue. Both are made for the first job; the thread again in a forked child.

    Addresses that are no longer mapped are errors that it counts, never a signal.

    Args:
        piece_bytes: what one system call asks for at most, and so how long `cancel` and `close`
            may wait: 4 MiB of warm tmpfs take about 1 ms, of a cold disk as long as it takes.
    """

    cdef shm_helper *_helper  # NULL until the first job
    cdef size_t _piece
    cdef bint _closed

    def __cinit__(self, *, size_t piece_bytes=4 << 20):
        if piece_bytes == 0:
            raise ValueError("pieces of 0 bytes")
        self._piece = piece_bytes

    def submit(self, uintptr_t address, size_t length, int action):
        """Queue one range.

        Args:
            address: page-aligned.
            length: in bytes.
            action: WILLNEED, POPULATE_READ, POPULATE_WRITE, PAGEOUT, or TOUCH (reads a byte a
                page through the kernel: what kernels before 5.14 have instead of POPULATE_READ).

        Raises:
            OSError: the thread can't be started, or the prefetcher is closed (ESHUTDOWN).
        """
        cdef shm_job job
        job.address = address
        job.length = length
        job.action = action
        self._submit(&job, 1)

    def submit_many(self, list ranges, int action):
        """Queue (address, length) pairs at once: one lock, one wake-up. Raises OSError."""
        cdef size_t count = len(ranges), i
        cdef shm_job *jobs = <shm_job *>malloc(max(1, count) * sizeof(shm_job))
        if jobs == NULL:
            raise MemoryError
        try:
            for i in range(count):
                jobs[i].address, jobs[i].length = ranges[i]
                jobs[i].action = action
            self._submit(jobs, count)
        finally:
            free(jobs)

    cdef int _submit(self, shm_job *jobs, size_t count) except -1:
        cdef int status
        if self._closed:
            status = -ESHUTDOWN
        else:
            self._make()
            with nogil:
                status = shm_helper_submit(self._helper, jobs, count)
        return check("start of the prefetch thread", status)

    cdef int _make(self) except -1:
        cdef shm_helper *made
        if self._helper == NULL:
            made = <shm_helper *>malloc(sizeof(shm_helper))
            if made == NULL:
                raise MemoryError
            self._helper = made
            check("pthread_atfork", shm_helper_init(made, self._piece))
        return 0

    def cancel(self):
        """Forget what is queued, and stop the running job after its piece."""
        if self._helper != NULL:
            with nogil:
                shm_helper_cancel(self._helper)

    def drain(self):
        """Wait until all that is queued is done."""
        if self._helper != NULL:
            with nogil:
                shm_helper_drain(self._helper)

    def close(self):
        """Cancel, and wait for the thread's end; idempotent. What is asked later is refused."""
        self._end()

    cdef void _end(self) noexcept:
        if not self._closed:
            self._closed = True
            if self._helper != NULL:
                with nogil:
                    shm_helper_close(self._helper)

    def counters(self) -> Counters:
        """What the thread has done; after a fork it counts on from the parent's figures."""
        h = self._helper
        if h == NULL:
            return Counters(0, 0, 0, 0, {})
        return Counters(
            h.calls, h.bytes, h.dropped, h.cancelled,
            {number: h.errors[number] for number in range(SHM_ERRNOS) if h.errors[number]},
        )

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return 0 if self._helper == NULL else self._helper.count

    def __dealloc__(self):
        if self._helper != NULL:
            self._end()
            free(self._helper)
