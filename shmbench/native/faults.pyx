# cython: language_level=3, boundscheck=False, wraparound=False
"""A thread without the GIL that handles the minor faults of a mapping, and maps ahead.

A fault is a page of shared memory that is in the page cache and not mapped: it is mapped at once,
and then what the law in faultlaw.h asks for. Whoever faults waits for this thread, which therefore
never touches the mapping itself, and leaves what it can't map to the kernel.
"""

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from shmbench.native.bell cimport pthread_join, pthread_t, shm_thread_start
from shmbench.native.endpoint cimport check
from shmbench.native.faultlaw cimport (
    SHM_FAULT_OUT, shm_fault, shm_faults, shm_faults_start, shm_hope, shm_hopeless, shm_is_wanted,
    shm_next_wanted, shm_want, shm_wanted
)
from shmbench.native.strides cimport shm_ahead
from shmbench.native.userfaultfd cimport (
    shm_uffd_begin, shm_uffd_continue, shm_uffd_leave, shm_uffd_open, shm_uffd_wait, shm_uffd_watch
)

from shmbench.native.detector import FaultDetector
from shmbench.native.watched import Watched

cdef extern from *:
    """
    #include <sys/eventfd.h>
    #include <unistd.h>
    """
    enum:
        _SC_PAGESIZE
        EFD_CLOEXEC
    long sysconf(int name) nogil
    int getpid() nogil
    int c_close "close"(int fd) nogil
    int eventfd(unsigned int value, int flags) nogil
    int eventfd_write(int fd, uint64_t value) nogil

cdef enum:
    EVENTS = 16  # read at once
    # How long all is left to the kernel where there is no pattern: twice as long each time.
    FIRST_AWAY_MS = 20
    MOST_AWAY_MS = 1000
    PAGES_IN_VAIN = 16  # of a piece that can't be mapped, or are; the rest of it is left alone then
    BURST_PAGES = 256  # and
    BURST_CALLS = 16  # are mapped before the next look for faults


cdef struct Faults:
    shm_faults law
    uintptr_t address
    int64_t pages, page_bytes
    int fd, bell  # -1: none
    shm_wanted wanted
    shm_ahead out[SHM_FAULT_OUT]
    uint64_t polls, continued, announced, refused, switches
    int refused_errno
    int away_ms  # 0: the mapping is registered
    int next_away_ms


cdef int _register(Faults *faults) noexcept nogil:
    return shm_uffd_watch(faults.fd, faults.address, faults.pages * faults.page_bytes)


cdef void _unregister(Faults *faults) noexcept nogil:
    shm_uffd_leave(faults.fd, faults.address, faults.pages * faults.page_bytes)


cdef int64_t _continue(Faults *faults, int64_t first, int64_t count) noexcept nogil:
    # Gives how many pages were mapped; the range may reach beyond the mapping.
    cdef int64_t behind = min(first + count, faults.pages), mapped
    cdef int refused = 0
    first = max(first, <int64_t>0)
    if first >= behind:
        return 0
    mapped = shm_uffd_continue(
        faults.fd,
        faults.address + first * faults.page_bytes,
        (behind - first) * faults.page_bytes,
        faults.page_bytes,
        PAGES_IN_VAIN,
        &refused,
    )
    faults.continued += mapped
    if refused:
        faults.refused += 1
        faults.refused_errno = refused
    return mapped


cdef void _serve(Faults *faults, int64_t page) noexcept nogil:
    cdef int64_t told, i
    cdef int was_off = faults.law.strides.read_ahead_off
    _continue(faults, page, 1)
    if shm_is_wanted(&faults.wanted, page):
        faults.law.faults += 1
        return
    told = shm_fault(&faults.law, page, faults.out)
    for i in range(told):
        shm_want(&faults.wanted, faults.out[i])
    faults.switches += faults.law.strides.read_ahead_off != was_off


cdef void _map_ahead(Faults *faults) noexcept nogil:
    # A burst of the oldest wish; what remains of it queues up again.
    cdef shm_ahead what = shm_next_wanted(&faults.wanted)
    cdef int64_t pages = 0
    cdef int calls = 0
    while what.steps and pages < BURST_PAGES and calls < BURST_CALLS:
        faults.announced += _continue(faults, what.first, what.count)
        pages += what.count
        calls += 1
        what.first += what.step
        what.steps -= 1
    if what.steps:
        shm_want(&faults.wanted, what)


cdef void _go_away(Faults *faults) noexcept nogil:
    _unregister(faults)
    faults.wanted.count = 0
    faults.switches += 1
    faults.away_ms = faults.next_away_ms
    faults.next_away_ms = min(2 * faults.next_away_ms, <int>MOST_AWAY_MS)


cdef void _come_back(Faults *faults) noexcept nogil:
    if _register(faults):
        faults.away_ms = -1  # the mapping is gone
        return
    faults.switches += 1
    faults.away_ms = 0
    shm_hope(&faults.law)


cdef void *_run(void *argument) noexcept nogil:
    cdef Faults *faults = <Faults *>argument
    cdef uint64_t addresses[EVENTS]
    cdef int got, i, timeout_ms
    while True:
        timeout_ms = 0 if faults.wanted.count else faults.away_ms if faults.away_ms else -1
        got = shm_uffd_wait(faults.fd, faults.bell, timeout_ms, addresses)
        if got < 0:
            return NULL
        faults.polls += 1
        if faults.away_ms:
            _come_back(faults)
        for i in range(got):
            _serve(faults, (addresses[i] - faults.address) // faults.page_bytes)
        if shm_hopeless(&faults.law):
            _go_away(faults)
        elif faults.law.strangers == 0:
            faults.next_away_ms = FIRST_AWAY_MS
        if faults.wanted.count:
            _map_ahead(faults)


cdef class FaultThread:
    """Handles the minor faults of one mapping from `start` to `stop`.

    Not for use by several threads at once. After a fork the child's mapping is an ordinary one, and
    the child has no such thread; there, `stop` changes nothing for the parent.

    Args:
        address: of the mapping's first page.
        length: in bytes.
        least_step, most_ahead, patience: of the law of strides, see `Detector`.
        most_window: as for `FaultDetector`.
    """

    cdef Faults *_faults
    cdef pthread_t _thread
    cdef int _owner

    def __cinit__(
        self,
        uintptr_t address,
        size_t length,
        *,
        int64_t least_step=8,
        int64_t most_ahead=512,
        int64_t patience=12,
        int64_t most_window=1024,
    ):
        cdef int64_t page = sysconf(_SC_PAGESIZE)
        if address % page or length == 0:
            raise ValueError(f"{length} bytes at {address:#x} are not the pages of a mapping")
        limits = {"least_step": least_step, "most_ahead": most_ahead, "patience": patience}
        FaultDetector(1, most_window=most_window, **limits)
        self._faults = <Faults *>calloc(1, sizeof(Faults))
        if self._faults == NULL:
            raise MemoryError
        self._faults.address = address
        self._faults.page_bytes = page
        self._faults.pages = (length + page - 1) // page
        self._faults.fd = self._faults.bell = -1
        shm_faults_start(
            &self._faults.law, self._faults.pages, least_step, most_ahead, patience, most_window
        )

    def start(self, *, bint user_mode_only):
        """Start the thread; it must not run yet.

        Args:
            user_mode_only: for an ordinary user. A system call that meets a page of the mapping
                which isn't mapped then fails by EFAULT; else it waits for the thread as well.

        Raises:
            OSError: ENOSYS: the kernel is older than 5.14, or made without it; EPERM: the user may
                not; EINVAL: the memory is no shared memory of small pages; EACCES: it is of a file
                that is open for reading only; EBUSY: somebody else handles its faults.
        """
        cdef Faults *faults = self._faults
        cdef int status
        if self._owner:
            raise RuntimeError("the watcher runs already")
        faults.wanted.count = faults.away_ms = faults.law.strangers = 0
        faults.next_away_ms = FIRST_AWAY_MS
        try:
            faults.fd = shm_uffd_open(user_mode_only)
            check("userfaultfd", faults.fd)
            check("userfaultfd's minor faults of shared memory", shm_uffd_begin(faults.fd))
            faults.bell = eventfd(0, EFD_CLOEXEC)
            if faults.bell < 0:
                check("eventfd", -errno)
            check("userfaultfd's registration of the mapping", _register(faults))
            status = -shm_thread_start(&self._thread, _run, faults)
            if status:
                _unregister(faults)
                check("start of a watching thread", status)
        except BaseException:
            self._close()
            raise
        self._owner = getpid()

    @property
    def running(self) -> bool:
        """Whether this process has the thread."""
        return self._owner == getpid()

    @property
    def descriptor(self) -> int:
        """The userfaultfd, while it runs; -1 after that."""
        return self._faults.fd if self._owner == getpid() else -1

    def stop(self):
        """End the thread and wait for it; who waits for a page gets it from the kernel. Idempotent."""
        cdef int owner = self._owner
        if not owner:
            return
        self._owner = 0
        if owner == getpid():
            self._end()
        self._close()

    cdef void _end(self) noexcept:
        with nogil:
            eventfd_write(self._faults.bell, 1)
            pthread_join(self._thread, NULL)
            _unregister(self._faults)

    cdef void _close(self) noexcept:
        if self._faults.fd >= 0:
            c_close(self._faults.fd)
        if self._faults.bell >= 0:
            c_close(self._faults.bell)
        self._faults.fd = self._faults.bell = -1

    def stats(self) -> Watched:
        """What was seen and done so far; the thread may be in the middle of it."""
        cdef Faults *faults = self._faults
        return Watched(
            polls=faults.polls,
            scans=0,
            scan_ns=0,
            touched=faults.law.faults,
            recognised=faults.law.strides.recognised,
            explained=faults.law.strides.explained,
            announced=faults.announced,
            refused=faults.refused,
            errno=faults.refused_errno,
            switches=faults.switches,
            faults=faults.law.faults,
            continued=faults.continued,
            windows=faults.law.windows,
        )

    def __dealloc__(self):
        if self._faults == NULL:
            return
        if self._owner and self._owner == getpid():
            self._end()
        self._close()
        free(self._faults)
