# cython: language_level=3, boundscheck=False, wraparound=False
"""A thread without the GIL that sees which pages of a mapping become mapped, and reads ahead.

What to do about them is the law in strides.h. It does not look while the process has no page faults.
"""

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from shmbench.native.bell cimport (
    pthread_join, pthread_t, shm_bell, shm_bell_hang, shm_bell_sleep, shm_bell_stop, shm_thread_start
)
from shmbench.native.endpoint cimport check
from shmbench.native.pagemap cimport (
    TOUCHES, PageMap, look_along, look_everywhere, page_map_open, sort_touches
)
from shmbench.native.strides cimport (
    SHM_STREAMS, shm_ahead, shm_law, shm_law_rest, shm_law_start, shm_law_step
)

from shmbench.native.detector import Detector
from shmbench.native.watched import Watched

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <time.h>
    #include <unistd.h>

    static int64_t shm_clock_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec * 1000000000LL + now.tv_nsec;
    }

    /* Of all threads. No page gets mapped without one, and one is counted after its page is mapped. */
    static int64_t shm_faults(void) {
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        return (int64_t)usage.ru_minflt + usage.ru_majflt;
    }

    /* Sleeps of microseconds are not rounded. */
    static void shm_exact_sleeps(void) { prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0); }
    """
    enum:
        _SC_PAGESIZE
        MADV_RANDOM
        MADV_WILLNEED
    long sysconf(int name) nogil
    int getpid() nogil
    int c_close "close"(int fd) nogil
    int c_madvise "madvise"(void *address, size_t length, int advice) nogil
    int64_t shm_clock_ns() nogil
    int64_t shm_faults() nogil
    void shm_exact_sleeps() nogil

cdef enum:
    # Between two polls while read-ahead is on: nothing is urgent then.
    CALM_NS = 1_000_000
    # Of this many parts of a CPU's time, scans of everything take at most one.
    SHARES_CALM = 100
    SHARES_LOOKING = 5


cdef struct Watch:
    PageMap map
    shm_law law
    shm_bell bell
    int advice
    int64_t least_ns, most_ns
    int is_off  # the mapping's read-ahead, as the kernel was last told
    shm_ahead out[TOUCHES + SHM_STREAMS]
    uint64_t polls, touched, announced, refused, switches
    int refused_errno


cdef void _tell_kernel(Watch *watch) noexcept nogil:
    # Whether the mapping wants read-ahead; an unmapped range refuses, and nothing is lost.
    if watch.law.read_ahead_off == watch.is_off:
        return
    watch.is_off = watch.law.read_ahead_off
    watch.switches += 1
    c_madvise(
        <void *>watch.map.address,
        watch.map.pages * watch.map.page_bytes,
        MADV_RANDOM if watch.is_off else watch.advice,
    )


cdef void _read_ahead(Watch *watch, shm_ahead *what) noexcept nogil:
    cdef int64_t i, first
    for i in range(what.steps):
        first = what.first + i * what.step
        if c_madvise(
            <void *>(watch.map.address + first * watch.map.page_bytes),
            min(what.count, watch.map.pages - first) * watch.map.page_bytes,
            MADV_WILLNEED,
        ):
            watch.refused += 1
            watch.refused_errno = errno
        else:
            watch.announced += what.count


cdef void _look_along_streams(Watch *watch) noexcept nogil:
    cdef int i
    for i in range(SHM_STREAMS):
        if watch.law.streams[i].ahead:
            look_along(&watch.map, watch.law.streams[i].last, watch.law.streams[i].step)


cdef int64_t _poll(Watch *watch, int64_t now, int64_t next_scan) noexcept nogil:
    # Looks at what has a reason to be looked at; gives when all may be looked at again.
    cdef int64_t took, told, i
    watch.polls += 1
    watch.map.count = 0
    _look_along_streams(watch)
    if now >= next_scan:
        took = look_everywhere(&watch.map, True)
        if watch.law.read_ahead_off:
            next_scan = now + SHARES_LOOKING * took
        else:
            next_scan = now + max(SHARES_CALM * took, <int64_t>CALM_NS)
    sort_touches(&watch.map)
    watch.touched += watch.map.count
    if watch.map.count:
        told = shm_law_step(&watch.law, watch.map.touches, watch.map.count, watch.out)
        for i in range(told):
            _read_ahead(watch, &watch.out[i])
    return next_scan


cdef void *_run(void *argument) noexcept nogil:
    cdef Watch *watch = <Watch *>argument
    cdef int64_t interval = watch.least_ns, next_scan = 0, now, faults, known_faults = -1, idle = 0
    cdef bint scanned
    shm_exact_sleeps()
    while not shm_bell_sleep(&watch.bell, shm_clock_ns() + interval):
        now = shm_clock_ns()
        faults = shm_faults()
        watch.map.count = 0
        if faults != known_faults:
            scanned = now >= next_scan
            next_scan = _poll(watch, now, next_scan)
            if scanned:
                known_faults = faults
        if watch.map.count:
            interval = watch.least_ns if watch.law.read_ahead_off else CALM_NS
            idle = 0
        else:
            # Each interval lasts as long as all before it: idle costs ever less.
            idle += 1
            if idle >= 32:
                interval = min(2 * interval, watch.most_ns)
                idle = 16
            if interval == watch.most_ns:
                shm_law_rest(&watch.law)
        _tell_kernel(watch)
    return NULL


cdef class Thread:
    """Watches one mapping from `start` to `stop`. Not for use by several threads at once.

    After a fork the child has no such thread: there, `stop` only gives the mapping its advice back.

    Args:
        address: of the mapping's first page.
        length: in bytes.
        least_ns, most_ns: between two polls, when all is happening and when nothing is.
        advice: MADV_* for the mapping while its read-ahead is on.
        least_step, most_ahead, patience: of the law, see `Detector`.
    """

    cdef Watch *_watch
    cdef pthread_t _thread
    cdef int _owner

    def __cinit__(
        self,
        uintptr_t address,
        size_t length,
        *,
        int64_t least_ns,
        int64_t most_ns,
        int advice,
        int64_t least_step,
        int64_t most_ahead,
        int64_t patience,
    ):
        cdef int64_t page = sysconf(_SC_PAGESIZE)
        if address % page or length == 0:
            raise ValueError(f"{length} bytes at {address:#x} are not the pages of a mapping")
        if not 0 < least_ns <= most_ns:
            raise ValueError(f"polls each {least_ns} to {most_ns} ns")
        Detector(1, least_step=least_step, most_ahead=most_ahead, patience=patience)
        self._watch = <Watch *>calloc(1, sizeof(Watch))
        if self._watch == NULL:
            raise MemoryError
        self._watch.map.address = address
        self._watch.map.page_bytes = page
        self._watch.map.pages = (length + page - 1) // page
        self._watch.advice = advice
        self._watch.least_ns = least_ns
        self._watch.most_ns = most_ns
        self._watch.map.file = -1
        self._watch.map.seen = <unsigned char *>calloc(self._watch.map.pages // 8 + 1, 1)
        if self._watch.map.seen == NULL:
            raise MemoryError
        shm_law_start(&self._watch.law, self._watch.map.pages, least_step, most_ahead, patience)

    def start(self, *, bint scan=True):
        """Start the thread; it must not run yet.

        Args:
            scan: use PAGEMAP_SCAN where the kernel has it.

        Raises:
            OSError: no thread, or no /proc/self/pagemap.
        """
        cdef int error
        if self._owner:
            raise RuntimeError("the watcher runs already")
        check("open /proc/self/pagemap", page_map_open(&self._watch.map))
        self._watch.map.can_scan = scan
        with nogil:
            # Before the caller's first touch.
            look_everywhere(&self._watch.map, False)
            _tell_kernel(self._watch)
        shm_bell_hang(&self._watch.bell)
        error = shm_thread_start(&self._thread, _run, self._watch)
        if error:
            self._leave()
            check("start of a watching thread", -error)
        self._owner = getpid()

    @property
    def scanning(self) -> bool:
        """Whether it looks by PAGEMAP_SCAN, once it was started."""
        return bool(self._watch.map.can_scan)

    @property
    def running(self) -> bool:
        """Whether this process has the thread."""
        return self._owner == getpid()

    def stop(self):
        """End the thread, wait for it, and turn the mapping's read-ahead on; idempotent."""
        cdef int owner = self._owner
        if not owner:
            return
        self._owner = 0
        if owner == getpid():
            with nogil:
                shm_bell_stop(&self._watch.bell)
                pthread_join(self._thread, NULL)
        self._leave()

    cdef void _leave(self) noexcept:
        with nogil:
            c_close(self._watch.map.file)
            shm_law_rest(&self._watch.law)
            _tell_kernel(self._watch)

    def stats(self) -> Watched:
        """What was seen and done so far; the thread may be in the middle of it."""
        cdef Watch *watch = self._watch
        return Watched(
            watch.polls,
            watch.map.scans,
            watch.map.scan_ns,
            watch.touched,
            watch.law.recognised,
            watch.law.explained,
            watch.announced,
            watch.refused,
            watch.refused_errno,
            watch.switches,
        )

    def __dealloc__(self):
        if self._watch == NULL:
            return
        if self._owner and self._owner == getpid():
            with nogil:
                shm_bell_stop(&self._watch.bell)
                pthread_join(self._thread, NULL)
        if self._owner:
            c_close(self._watch.map.file)
        free(self._watch.map.seen)
        free(self._watch)
