# cython: language_level=3, boundscheck=False, wraparound=False
"""Futex and a barrier over shared memory, for coordination outside of the timed loops."""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t

from shmbench.native.atomics cimport shm_add64, shm_load64, shm_store64
from shmbench.native.endpoint cimport check


cdef extern from "futex.h" nogil:
    int shm_futex_wait(uint32_t *word, uint32_t expected)
    int shm_futex_wake(uint32_t *word, int waiters)
    int shm_barrier(uint32_t *words, uint32_t size, uint32_t spins)


def futex_wait(uintptr_t address, uint32_t expected):
    """Sleep while the 32-bit word at address is `expected` (futex(2), FUTEX_WAIT).

    Returns at once where it is not; may return early: look at the word again. Raises OSError.
    """
    cdef int status
    with nogil:
        status = shm_futex_wait(<uint32_t *>address, expected)
    check("futex wait", status)


def futex_wake(uintptr_t address, int waiters):
    """Wake up to `waiters` sleepers on the word (futex(2), FUTEX_WAKE); gives how many woke."""
    cdef int status
    with nogil:
        status = shm_futex_wake(<uint32_t *>address, waiters)
    check("futex wake", status)
    return status


def barrier(uintptr_t address, uint32_t size, uint32_t spins=2000):
    """Wait until `size` callers are here: two 32-bit words at address, zero at first.

    Args:
        address: of 8 shared bytes, 4-aligned.
        spins: how often to look before sleeping in the kernel.
    """
    cdef int status
    with nogil:
        status = shm_barrier(<uint32_t *>address, size, spins)
    check("barrier", status)


def load64(uintptr_t address):
    """Acquire-load of the 64-bit word at address (8-aligned)."""
    return shm_load64(<const uint64_t *>address)


def store64(uintptr_t address, uint64_t value):
    """Release-store to the 64-bit word at address (8-aligned)."""
    shm_store64(<uint64_t *>address, value)


def add64(uintptr_t address, uint64_t value):
    """Atomic add to the 64-bit word at address; gives what it was before."""
    return shm_add64(<uint64_t *>address, value)
