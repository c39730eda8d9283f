# cython: language_level=3, boundscheck=False, wraparound=False
"""Does a file still reach to here? Asked before every access, so it should cost next to nothing."""

cdef extern from "tripwire.h" nogil:
    struct shm_tripwire:
        pass
    shm_tripwire *shm_tripwire_set(int fd, uint64_t offset, int *now)
    void shm_tripwire_remove(shm_tripwire *wire)
    bint shm_tripwire_holds(const shm_tripwire *wire)
    bint shm_tripwires_work()
    bint shm_reaches(int fd, uint64_t end)
    size_t shm_page_bytes()

cdef enum:
    WIRE_AFTER = 16  # looks at the file's length, before a tripwire (two system calls) pays
    WIRE_AGAIN = 1024  # looks until the next attempt, when the last page was not in memory


cdef class Reach:
    """Tells whether a mapped file has become shorter: by a tripwire, else by a system call.

    By a system call too on the file's last page, which may become shorter without losing the page.
    Call it with the GIL held. Who uses it calls `refresh` once a second or so, and `let_go` at the
    end.

    Args:
        fd: of the file, open as long as this is used; -1: there is none, so it always reaches.
        offset: where what is mapped begins, in the file.
        length: of what is mapped, in bytes.
    """

    def __cinit__(self, int fd, uint64_t offset, size_t length):
        self.fd = fd
        self.offset = offset
        self.length = length
        self._wait = WIRE_AFTER

    cdef bint reaches(self, size_t end) noexcept:
        """Whether the file has all bytes before `end`, counted from where the mapping begins."""
        if self.fd < 0:
            return True
        if self._wire != NULL:
            if end <= self._wire_at:
                if shm_tripwire_holds(<shm_tripwire *>self._wire):
                    return True
                self.let_go()  # for good: it isn't the file that it was
        elif self._wait:
            self._wait -= 1
            if self._wait == 0:
                self._set_wire()
        return shm_reaches(self.fd, self.offset + end)

    cdef void _set_wire(self) noexcept:
        cdef size_t page = shm_page_bytes()
        cdef uint64_t last = (self.offset + self.length - 1) & ~(page - 1)
        if last <= self.offset or self.length == 0:
            return
        cdef int now
        self._wire = shm_tripwire_set(self.fd, last, &now)
        self._wire_at = last - self.offset
        if not now:
            self._wait = WIRE_AGAIN

    cdef void refresh(self) noexcept:
        """Do without where somebody has installed another handler meanwhile."""
        if self._wire != NULL and not shm_tripwires_work():
            self.let_go()

    cdef void let_go(self) noexcept:
        """Unmap the tripwire's page; idempotent."""
        if self._wire != NULL:
            shm_tripwire_remove(<shm_tripwire *>self._wire)
            self._wire = NULL

    def __dealloc__(self):
        self.let_go()
