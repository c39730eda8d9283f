from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t


cdef class StrideLaw:
    cdef readonly bint timing
    cdef readonly size_t start, length
    cdef size_t _at, _piece
    cdef int64_t _step
    cdef int _equal, _touches
    cdef uint64_t _touch_ns, _longest_ns, _rest, _pause
    cdef double _credit_ns
    cpdef bint access(self, size_t offset, size_t end, size_t size) noexcept
    cpdef void touched(self, uint64_t ns) noexcept
    cpdef void mapped(self, uint64_t ns) noexcept
    cpdef void stop(self) noexcept
    cdef double _usual_ns(self) noexcept
    cdef void _forget(self) noexcept
