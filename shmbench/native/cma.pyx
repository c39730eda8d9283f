# cython: language_level=3, boundscheck=False, wraparound=False
"""Cross-memory attach: the receiver copies straight out of the sender's memory.

A control block of shared memory a wire tells where the message lies (process_vm_readv(2)): the
sender writes its first line, the receiver its second.
"""

from libc.errno cimport EFAULT, EINTR, EINVAL, EMSGSIZE, errno
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from posix.types cimport pid_t
from posix.unistd cimport getpid

from shmbench.native.atomics cimport shm_load64, shm_pause, shm_store64
from shmbench.native.endpoint cimport Endpoint, check


cdef extern from "sched.h" nogil:
    int sched_yield()


cdef extern from "sys/prctl.h" nogil:
    int PR_SET_PTRACER
    unsigned long PR_SET_PTRACER_ANY
    int prctl(int option, unsigned long argument, ...)


cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t process_vm_readv(pid_t pid, const iovec *local, unsigned long local_count,
                             const iovec *remote, unsigned long remote_count, unsigned long flags)


cdef extern from *:
    """
    #include <stdint.h>
    /* 128 bytes, because processors fetch lines in pairs: neither side disturbs the other's look. */
    typedef struct {
        uint64_t sequence, address, length, pid;
        uint64_t sender_pad[12];
        uint64_t acknowledged;
        uint64_t receiver_pad[15];
    } shm_cma_block;
    """
    ctypedef struct Block "shm_cma_block":
        uint64_t sequence
        uint64_t address
        uint64_t length
        uint64_t pid
        uint64_t acknowledged


cdef enum:
    NEVER = 0xFFFFFFFF  # of spins_before_yield

CONTROL_BYTES = sizeof(Block)


cdef inline void wait_for(
    const uint64_t *word, uint64_t value, uint32_t spins_before_yield
) noexcept nogil:
    cdef uint32_t looks = 0
    while shm_load64(word) != value:
        shm_pause()
        if spins_before_yield != <uint32_t>NEVER:
            looks += 1
            if looks >= spins_before_yield:
                looks = 0
                sched_yield()


def allow_attach():
    """Let this user's processes read this one's memory while it lives (prctl(2), PR_SET_PTRACER).

    Where Yama's ptrace_scope is 1, siblings may not without it. Raises OSError; a kernel without
    Yama has nothing to allow and is fine.
    """
    if prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0) != 0 and errno != EINVAL:
        check("prctl(PR_SET_PTRACER)", -errno)


cdef class CmaSender(Endpoint):
    """The sending end. One message at a time: a second post first waits for the one before.

    Args:
        address: of CONTROL_BYTES shared bytes that were zero at first, 8-aligned.
    """

    cdef Block *_block
    cdef uint64_t _sequence

    def __cinit__(self, uintptr_t address):
        self._block = <Block *>address
        self._block.pid = getpid()

    cdef int c_send(self, const char *data, size_t n) noexcept nogil:
        self.c_post(data, n)
        return self.c_complete()

    cdef int c_post(self, const char *data, size_t n) noexcept nogil:
        self.c_complete()
        self._block.address = <uint64_t>data
        self._block.length = n
        self._sequence += 1
        shm_store64(&self._block.sequence, self._sequence)
        return 0

    cdef int c_complete(self) noexcept nogil:
        wait_for(&self._block.acknowledged, self._sequence, self.spins_before_yield)
        return 0


cdef class CmaReceiver(Endpoint):
    """The receiving end. A message that could not be read stays, and its sender waits on.

    Args:
        address: as the sender's.
    """

    cdef Block *_block
    cdef uint64_t _sequence

    def __cinit__(self, uintptr_t address):
        self._block = <Block *>address

    cdef Py_ssize_t c_recv(self, char *data, size_t capacity) noexcept nogil:
        cdef iovec local, remote
        cdef ssize_t moved
        cdef size_t length
        wait_for(&self._block.sequence, self._sequence + 1, self.spins_before_yield)
        length = self._block.length
        if length > capacity:
            return -EMSGSIZE
        local.iov_base = data
        local.iov_len = length
        remote.iov_base = <void *><uintptr_t>self._block.address
        remote.iov_len = length
        # One call moves less than 2 GiB (MAX_RW_COUNT), and stops where a page can't be read.
        while local.iov_len:
            moved = process_vm_readv(<pid_t>self._block.pid, &local, 1, &remote, 1, 0)
            if moved > 0:
                local.iov_base = <char *>local.iov_base + moved
                local.iov_len -= moved
                remote.iov_base = <char *>remote.iov_base + moved
                remote.iov_len -= moved
            elif moved == 0:
                return -EFAULT
            elif errno != EINTR:
                return -errno
        self._sequence += 1
        shm_store64(&self._block.acknowledged, self._sequence)
        return length
