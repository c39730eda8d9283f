from libc.stddef cimport size_t
from libc.stdint cimport uint64_t


cdef class Reach:
    cdef int fd
    cdef uint64_t offset
    cdef size_t length
    cdef int _wait
    cdef void *_wire  # struct shm_tripwire *: its header is for reach.pyx alone
    cdef size_t _wire_at  # bytes before it are there as long as the wire holds
    cdef bint reaches(self, size_t end) noexcept
    cdef void refresh(self) noexcept
    cdef void let_go(self) noexcept
    cdef void _set_wire(self) noexcept
