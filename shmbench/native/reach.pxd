from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uintptr_t

cdef enum:
    T_TOUCHED = 0
    T_WAITED = 1
    T_FAILED = 2


cdef class Reach:
    cdef uintptr_t address
    cdef int fd
    cdef uint64_t offset
    cdef size_t length
    cdef int _wait
    cdef bint in_memory
    cdef bint touches
    cdef uint64_t _prompt, _batch  # PROMPT_NS and BATCH_NS in ticks
    cdef size_t touched_steps
    cdef uint64_t faults
    cdef long _majors
    cdef uint64_t _majors_of  # the thread
    cdef size_t _wire_at  # bytes before it are there as long as its page is; 0: there is no wire
    cdef bint reaches(self, size_t end) noexcept
    cdef int touch(
        self, uintptr_t start, size_t length, int64_t step=*, size_t steps=*
    ) noexcept
    cdef bint _more_majors(self) noexcept
    cdef void refresh(self) noexcept
    cdef void let_go(self) noexcept
    cdef void _set_wire(self) noexcept
