# cython: language_level=3, boundscheck=False, wraparound=False
"""What loads tell before every access: does the file still reach to here; is the page there?"""

from libc.stdint cimport int64_t, uint64_t, uintptr_t

cdef extern from "tripwire.h" nogil:
    int shm_set_tripwire(uintptr_t page, int fd, bint in_memory)
    int shm_try_load(uintptr_t at)
    bint shm_loads_work()
    bint shm_reaches(int fd, uint64_t end)
    int64_t shm_touch(
        uintptr_t start, size_t length, int64_t step, size_t *steps, uint64_t limit
    )
    uint64_t shm_ticks_of(uint64_t ns)
    long shm_faults(long *majors)
    size_t shm_page_bytes()

cdef extern from "pthread.h" nogil:
    uint64_t pthread_self()

cdef enum:
    WIRE_AFTER = 8  # looks at the file's length, before a tripwire (four system calls) pays
    WIRE_AFTER_SURE = 4  # where the page is known to be there: it will have nothing to wait for
    WIRE_AGAIN = 1024  # looks until the next attempt, when the last page was not in memory
    PROMPT_NS = 10000  # a touch that takes longer may have waited for a device
    BATCH_NS = 30000  # touches ahead of a reader may hold it up for so long


cdef class Reach:
    """Tells whether a mapped file has become shorter: by a tripwire, else by a system call.

    By a system call too on the file's last page, which may become shorter without losing the page.
    Call it with the GIL held. Who uses it calls `refresh` at first and once a second or so, and
    `let_go` at the end.

    Args:
        address: of the first byte that is mapped, until `let_go`.
        fd: of the file, open as long as this is used; -1: there is none, so it always reaches.
        offset: where what is mapped begins, in the file.
        length: of what is mapped, in bytes.

    Attributes:
        in_memory: all of the file is known to be; the user says so.
        touched_steps: of how many accesses the last touch that worked was.
        faults: how many page faults it met, if it was of several.
        touches: whether `touch` works, as far as `refresh` has seen: SIGBUS has to be ours.
    """

    def __cinit__(self, uintptr_t address, int fd, uint64_t offset, size_t length):
        self.address = address
        self.fd = fd
        self.offset = offset
        self.length = length
        self._wait = WIRE_AFTER

    cdef bint reaches(self, size_t end) noexcept:
        """Whether the file has all bytes before `end`, counted from where the mapping begins."""
        if self.fd < 0:
            return True
        if self._wire_at:
            if end <= self._wire_at:
                if shm_try_load(self.address + self._wire_at) == 0:
                    return True
                self.let_go()  # it isn't the file that it was
        elif self._wait:
            self._wait -= 1
            if self._wait <= (WIRE_AFTER - WIRE_AFTER_SURE if self.in_memory else 0):
                self._set_wire()
        return shm_reaches(self.fd, self.offset + end)

    cdef void _set_wire(self) noexcept:
        cdef uintptr_t last = (self.address + self.length - 1) & ~(shm_page_bytes() - 1)
        self._wait = 0
        if self.length == 0 or last <= self.address:
            return
        cdef int found = shm_set_tripwire(last, self.fd, self.in_memory)
        if found > 0:
            self._wire_at = last - self.address
        elif found == 0:
            self._wait = WIRE_AGAIN

    cdef int touch(
        self, uintptr_t start, size_t length, int64_t step=0, size_t steps=1
    ) noexcept:
        """Map pages by a load from each, without the GIL: what a reader's own touch would do.

        The caller holds on to the memory.

        Args:
            start: the address of the first byte.
            length: of an access, in bytes.
            step: from an access to the next, in bytes.
            steps: how many accesses; fewer are touched where that takes long.

        Returns:
            TOUCHED, WAITED: the pages are there now, and this thread had to wait for a device;
            or FAILED: there is none at one of the first access's addresses, or it can't be read in.
        """
        cdef int64_t took  # ticks
        cdef long faults = 0
        with nogil:
            if steps > 1:
                faults = -shm_faults(NULL)
            took = shm_touch(start, length, step, &steps, self._batch)
            if steps > 1:
                faults += shm_faults(NULL)
        if took < 0:
            return T_FAILED
        self.touched_steps = steps
        self.faults = faults
        return T_WAITED if took > <int64_t>self._prompt and self._more_majors() else T_TOUCHED

    cdef bint _more_majors(self) noexcept:
        """Has this thread had major faults since it was last here?"""
        cdef uint64_t thread = pthread_self()
        cdef long majors
        shm_faults(&majors)
        cdef bint more = thread != self._majors_of or majors > self._majors
        self._majors, self._majors_of = majors, thread
        return more

    cdef void refresh(self) noexcept:
        """Do without where somebody has installed another handler meanwhile."""
        self.touches = shm_loads_work()
        self._more_majors()
        self._prompt = shm_ticks_of(PROMPT_NS)
        self._batch = shm_ticks_of(BATCH_NS)
        if not self.touches:
            self.let_go()

    cdef void let_go(self) noexcept:
        """There is no tripwire any more, nor will there be another one."""
        self._wire_at = self._wait = 0
