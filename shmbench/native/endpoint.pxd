# cython: language_level=3
from libc.stdint cimport uint32_t
from libc.stddef cimport size_t


cdef class Endpoint:
    # How often a spinning wait looks before it gives the CPU away; 0xFFFFFFFF: never.
    cdef public uint32_t spins_before_yield

    # All four give a negative errno on failure. send, post and complete give 0; recv gives the
    # message's length.
    cdef int c_send(self, const char *data, size_t n) noexcept nogil
    cdef Py_ssize_t c_recv(self, char *data, size_t capacity) noexcept nogil
    cdef int c_post(self, const char *data, size_t n) noexcept nogil
    cdef int c_complete(self) noexcept nogil


cdef class Ends:
    """Several endpoints as an array for C, kept alive."""

    cdef list objects
    cdef void **pointers
    cdef int count


cdef class NativeTee(Endpoint):
    cdef Ends _ends


cdef int check(object what, Py_ssize_t status) except -1
