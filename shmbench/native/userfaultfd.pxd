"""Minor faults on shared memory, see userfaultfd.h."""

from libc.stdint cimport int64_t, uint64_t, uintptr_t

cdef extern from "userfaultfd.h" nogil:
    int shm_uffd_open(int user_mode_only)
    int shm_uffd_begin(int fd)
    int shm_uffd_watch(int fd, uintptr_t address, uint64_t length)
    void shm_uffd_leave(int fd, uintptr_t address, uint64_t length)
    int64_t shm_uffd_continue(
        int fd, uintptr_t address, uint64_t length, uint64_t page, int64_t patience, int *refused
    )
    int shm_uffd_wait(int fd, int stop, int timeout_ms, uint64_t *addresses)
