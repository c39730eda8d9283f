from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t


cdef class StrideLaw:
    cdef readonly int64_t step
    cdef readonly bint there
    cdef readonly size_t piece
    cdef size_t _at, _length, _ready, _wanted, _steps, _piece
    cdef int _equal, _pieces, _wait, _refusals
    cdef uint64_t _rest, _pause
    cpdef size_t access(self, size_t offset, size_t end, size_t size) noexcept
    cpdef void touched(self, size_t offset, size_t steps, uint64_t faults) noexcept
    cpdef void populated(self, size_t offset) noexcept
    cpdef void refused(self) noexcept
    cpdef void stop(self) noexcept
    cpdef void forget(self) noexcept
