# cython: language_level=3, boundscheck=False, wraparound=False
"""The clock of every measurement: CLOCK_MONOTONIC, integer nanoseconds (clock_gettime(2))."""

from libc.stdint cimport uint64_t

from shmbench.native.atomics cimport shm_now_ns


def monotonic_ns() -> int:
    """CLOCK_MONOTONIC in nanoseconds."""
    return shm_now_ns()


def clock_cost_ns(int reads=20000) -> float:
    """What one native read of the clock costs, in nanoseconds: the best of five loops of `reads`."""
    cdef uint64_t start, best = <uint64_t>-1
    cdef int i, attempt
    with nogil:
        for attempt in range(5):
            start = shm_now_ns()
            for i in range(reads):
                shm_now_ns()
            start = shm_now_ns() - start
            if start < best:
                best = start
    return best / <double>reads


def clock_step_ns(int reads=2000) -> int:
    """The smallest step between two reads that differ, in nanoseconds."""
    cdef uint64_t a, b, best = <uint64_t>-1
    cdef int i
    with nogil:
        for i in range(reads):
            a = shm_now_ns()
            b = shm_now_ns()
            while b == a:
                b = shm_now_ns()
            if b - a < best:
                best = b - a
    return best
