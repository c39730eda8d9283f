# cython: language_level=3, boundscheck=False, wraparound=False
"""A thread without the GIL that sees which pages of a mapping are touched, and reads ahead.

It looks for pages that became mapped: all of the range by PAGEMAP_SCAN (Linux 6.7), or by reading
/proc/self/pagemap before; the next pages of known streams one by one. What to do about them is the
law in strides.h. It does not look while the process has no page faults. Addresses that aren't mapped (any more) are nothing but empty to it.
"""

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from typing import NamedTuple

from shmbench.native.endpoint cimport check

cdef extern from *:
    """
    #define _GNU_SOURCE
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <time.h>
    #include <unistd.h>

    /* <linux/fs.h> since Linux 6.7 */
    struct shm_run { uint64_t start, end, categories; };
    struct shm_scan {
        uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
        uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
    };
    #define SHM_PAGE_IS_PRESENT (1 << 3)
    static int shm_do_scan(int fd, struct shm_scan *scan) {
        return ioctl(fd, _IOWR('f', 16, struct shm_scan), scan);
    }

    static int64_t shm_clock_ns(clockid_t clock) {
        struct timespec now;
        clock_gettime(clock, &now);
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
        O_RDONLY
        O_CLOEXEC
        MADV_RANDOM
        MADV_WILLNEED
        SHM_PAGE_IS_PRESENT
        CLOCK_MONOTONIC
        CLOCK_THREAD_CPUTIME_ID
    struct shm_run:
        uint64_t start, end, categories
    struct shm_scan:
        uint64_t size, start, end, walk_end, vec, vec_len, category_mask, return_mask
    long sysconf(int name) nogil
    int getpid() nogil
    int c_open "open"(const char *path, int flags) nogil
    int c_close "close"(int fd) nogil
    ssize_t c_pread "pread"(int fd, void *buffer, size_t length, int64_t offset) nogil
    int c_madvise "madvise"(void *address, size_t length, int advice) nogil
    int shm_do_scan(int fd, shm_scan *scan) nogil
    int64_t shm_clock_ns(int clock) nogil
    int64_t shm_faults() nogil
    void shm_exact_sleeps() nogil

cdef extern from "bell.h" nogil:
    ctypedef struct pthread_t:
        pass
    struct shm_bell:
        pass
    void shm_bell_hang(shm_bell *bell)
    int shm_bell_sleep(shm_bell *bell, int64_t until_ns)
    void shm_bell_stop(shm_bell *bell)
    int shm_thread_start(pthread_t *thread, void *(*body)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **result)

cdef extern from "strides.h" nogil:
    enum:
        SHM_STREAMS
    struct shm_stream:
        int64_t last, step, count, ahead
    struct shm_law:
        int64_t pages
        int read_ahead_off
        uint64_t recognised, explained, unexplained
        shm_stream *streams
    struct shm_ahead:
        int64_t first, step, steps, count
    void shm_law_start(
        shm_law *law, int64_t pages, int64_t least_step, int64_t most_ahead, int64_t patience
    )
    void shm_law_rest(shm_law *law)
    int64_t shm_law_step(shm_law *law, int64_t *pages, int64_t count, shm_ahead *out)

cdef enum:
    RUNS = 1024  # taken from the kernel at once
    TOUCHES = 4096  # given to the law at once; more at a time are no pattern that it could help
    ENTRIES = 512  # of the page map, read at once
    STREAM_LOOK = 256  # steps of a stream in one poll
    # Between two polls while read-ahead is on: nothing is urgent then.
    CALM_NS = 1_000_000
    # Of this many parts of a CPU's time, scans of everything take at most one.
    SHARES_CALM = 100
    SHARES_LOOKING = 5


class Ahead(NamedTuple):
    """`steps` units to read ahead: `pages` pages from `first` on, and again each `step` pages."""

    first: int
    step: int
    steps: int
    pages: int


class Watched(NamedTuple):
    """What a watcher has seen and done.

    Attributes:
        polls: looks at the mapping; there is none while no thread of the process has a page fault.
        scans: those of them at all of the mapping.
        scan_ns: the CPU time that these took.
        touched: pages that were seen to become mapped.
        recognised: strided streams.
        explained: steps that streams have made.
        announced: pages that the kernel was asked to read ahead.
        refused: announcements that it refused.
        errno: of the last one; 0: none.
        switches: how often the mapping's read-ahead was turned off or on.
    """

    polls: int
    scans: int
    scan_ns: int
    touched: int
    recognised: int
    explained: int
    announced: int
    refused: int
    errno: int
    switches: int


cdef class Detector:
    """The law alone, for those who want to see what it does: pages in, units to read out.

    Args:
        pages: how many there are; page numbers are below.
        least_step: shorter strides are left to the kernel's read-ahead, in pages.
        most_ahead: how far to read ahead, in steps.
        patience: touches that no stream explains before read-ahead is turned on again.
    """

    cdef shm_law _law

    def __cinit__(
        self, int64_t pages, *, int64_t least_step=8, int64_t most_ahead=512, int64_t patience=12
    ):
        if min(pages, least_step, most_ahead) < 1 or patience < 0:
            raise ValueError(f"no such law: {pages} pages, {least_step}, {most_ahead}, {patience}")
        shm_law_start(&self._law, pages, least_step, most_ahead, patience)

    @property
    def read_ahead_off(self) -> bool:
        """Whether the kernel's own read-ahead has to be off now."""
        return bool(self._law.read_ahead_off)

    @property
    def streams(self) -> list:
        """(last page, step) of each stream that is followed."""
        return [
            (self._law.streams[i].last, self._law.streams[i].step)
            for i in range(SHM_STREAMS)
            if self._law.streams[i].ahead
        ]

    def step(self, touched) -> list:
        """A poll in which these pages, ascending and distinct, became mapped."""
        cdef list numbers = list(touched)
        cdef Py_ssize_t count = len(numbers), i
        cdef int64_t told
        if any(not 0 <= page < self._law.pages for page in numbers) or any(
            a >= b for a, b in zip(numbers, numbers[1:])
        ):
            raise ValueError("page numbers have to be ascending, distinct, and within the memory")
        cdef int64_t *pages = <int64_t *>malloc(max(1, count) * sizeof(int64_t))
        cdef shm_ahead *out = <shm_ahead *>malloc((SHM_STREAMS + count) * sizeof(shm_ahead))
        if pages == NULL or out == NULL:
            free(pages)
            free(out)
            raise MemoryError
        for i in range(count):
            pages[i] = numbers[i]
        with nogil:
            told = shm_law_step(&self._law, pages, count, out)
        result = [Ahead(out[i].first, out[i].step, out[i].steps, out[i].count) for i in range(told)]
        free(pages)
        free(out)
        return result

    def rest(self):
        """Nothing was touched for long."""
        shm_law_rest(&self._law)


cdef struct Watch:
    shm_law law
    shm_bell bell
    uintptr_t address
    int64_t pages, page_bytes
    int pagemap, can_scan, advice
    int64_t least_ns, most_ns
    int is_off  # the mapping's read-ahead, as the kernel was last told
    unsigned char *seen  # a bit a page: was it mapped when last looked at
    int64_t touches[TOUCHES]
    int64_t count
    shm_ahead out[TOUCHES + SHM_STREAMS]
    uint64_t polls, scans, scan_ns, touched, announced, refused, switches
    int refused_errno


cdef bint _was_seen(Watch *watch, int64_t page) noexcept nogil:
    return watch.seen[page >> 3] >> (page & 7) & 1


cdef void _note(Watch *watch, int64_t page, bint fresh) noexcept nogil:
    watch.seen[page >> 3] |= 1 << (page & 7)
    if fresh and watch.count < TOUCHES:
        watch.touches[watch.count] = page
        watch.count += 1


cdef void _forget(Watch *watch, int64_t first, int64_t behind) noexcept nogil:
    # Pages that are not mapped (any more), so that they count when they are mapped again.
    while first < behind:
        if first & 7 == 0 and behind - first >= 8:
            watch.seen[first >> 3] = 0
            first += 8
        else:
            watch.seen[first >> 3] &= ~(1 << (first & 7))
            first += 1


cdef void _mapped(Watch *watch, int64_t first, int64_t behind, bint fresh) noexcept nogil:
    while first < behind:
        if first & 7 == 0 and behind - first >= 8 and watch.seen[first >> 3] == 0xFF:
            first += 8
        else:
            if not _was_seen(watch, first):
                _note(watch, first, fresh)
            first += 1


cdef bint _scan(Watch *watch, bint fresh) noexcept nogil:
    # By ioctl; False where the kernel does not know it.
    cdef shm_run runs[RUNS]
    cdef shm_scan scan
    cdef int found, i
    cdef int64_t at = 0, first
    memset(&scan, 0, sizeof(scan))
    scan.size = sizeof(scan)
    scan.start = watch.address
    scan.end = watch.address + watch.pages * watch.page_bytes
    scan.vec = <uintptr_t>runs
    scan.vec_len = RUNS
    scan.category_mask = SHM_PAGE_IS_PRESENT
    scan.return_mask = SHM_PAGE_IS_PRESENT
    while scan.start < scan.end:
        found = shm_do_scan(watch.pagemap, &scan)
        if found < 0:
            return False
        for i in range(found):
            first = (runs[i].start - watch.address) // watch.page_bytes
            _forget(watch, at, first)
            at = (runs[i].end - watch.address) // watch.page_bytes
            _mapped(watch, first, at, fresh)
        scan.start = scan.walk_end
    _forget(watch, at, watch.pages)
    return True


cdef int64_t _read_entries(Watch *watch, int64_t page, int64_t count, uint64_t *entries) noexcept nogil:
    # Bit 63: present (Documentation/admin-guide/mm/pagemap.rst).
    cdef int64_t at = (watch.address // watch.page_bytes + page) * sizeof(uint64_t)
    return c_pread(watch.pagemap, entries, count * sizeof(uint64_t), at) // <int64_t>sizeof(uint64_t)


cdef void _read_all(Watch *watch, bint fresh) noexcept nogil:
    cdef uint64_t entries[ENTRIES]
    cdef int64_t page = 0, got, i
    while page < watch.pages:
        got = _read_entries(watch, page, min(watch.pages - page, <int64_t>ENTRIES), entries)
        if got <= 0:
            return
        for i in range(got):
            if entries[i] >> 63:
                _mapped(watch, page + i, page + i + 1, fresh)
            else:
                _forget(watch, page + i, page + i + 1)
        page += got


cdef int64_t _look_everywhere(Watch *watch, bint fresh) noexcept nogil:
    # Gives the CPU time that it took.
    cdef int64_t begin = shm_clock_ns(CLOCK_THREAD_CPUTIME_ID), took
    if watch.can_scan:
        watch.can_scan = _scan(watch, fresh)
    if not watch.can_scan:
        _read_all(watch, fresh)
    watch.scans += 1
    took = shm_clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin
    watch.scan_ns += took
    return took


cdef void _look_along_streams(Watch *watch) noexcept nogil:
    # Their next pages one by one, which is cheaper than the range between them.
    cdef int i, steps
    cdef int64_t page
    cdef uint64_t entry
    for i in range(SHM_STREAMS):
        if watch.law.streams[i].ahead == 0:
            continue
        page = watch.law.streams[i].last
        for steps in range(STREAM_LOOK):
            page += watch.law.streams[i].step
            if page < 0 or page >= watch.pages or _was_seen(watch, page):
                break
            if _read_entries(watch, page, 1, &entry) != 1 or not entry >> 63:
                break
            _note(watch, page, True)


cdef void _sort(int64_t *pages, int64_t count) noexcept nogil:
    # Nearly sorted: one ascending piece a stream, and one of the scan.
    cdef int64_t i, j, page
    for i in range(1, count):
        page = pages[i]
        j = i
        while j > 0 and pages[j - 1] > page:
            pages[j] = pages[j - 1]
            j -= 1
        pages[j] = page


cdef void _tell_kernel(Watch *watch) noexcept nogil:
    # Whether the mapping wants read-ahead; an unmapped range refuses, and nothing is lost.
    if watch.law.read_ahead_off == watch.is_off:
        return
    watch.is_off = watch.law.read_ahead_off
    watch.switches += 1
    c_madvise(
        <void *>watch.address,
        watch.pages * watch.page_bytes,
        MADV_RANDOM if watch.is_off else watch.advice,
    )


cdef void _read_ahead(Watch *watch, shm_ahead *what) noexcept nogil:
    cdef int64_t i, first
    for i in range(what.steps):
        first = what.first + i * what.step
        if c_madvise(
            <void *>(watch.address + first * watch.page_bytes),
            min(what.count, watch.pages - first) * watch.page_bytes,
            MADV_WILLNEED,
        ):
            watch.refused += 1
            watch.refused_errno = errno
        else:
            watch.announced += what.count


cdef int64_t _poll(Watch *watch, int64_t now, int64_t next_scan) noexcept nogil:
    # Looks at what has a reason to be looked at; gives when all may be looked at again.
    cdef int64_t took, told, i
    watch.polls += 1
    watch.count = 0
    _look_along_streams(watch)
    if now >= next_scan:
        took = _look_everywhere(watch, True)
        if watch.law.read_ahead_off:
            next_scan = now + SHARES_LOOKING * took
        else:
            next_scan = now + max(SHARES_CALM * took, <int64_t>CALM_NS)
    _sort(watch.touches, watch.count)
    watch.touched += watch.count
    if watch.count:
        told = shm_law_step(&watch.law, watch.touches, watch.count, watch.out)
        for i in range(told):
            _read_ahead(watch, &watch.out[i])
    return next_scan


cdef void *_run(void *argument) noexcept nogil:
    cdef Watch *watch = <Watch *>argument
    cdef int64_t interval = watch.least_ns, next_scan = 0, now, faults, known_faults = -1, idle = 0
    cdef bint scanned
    shm_exact_sleeps()
    while not shm_bell_sleep(&watch.bell, shm_clock_ns(CLOCK_MONOTONIC) + interval):
        now = shm_clock_ns(CLOCK_MONOTONIC)
        faults = shm_faults()
        watch.count = 0
        if faults != known_faults:
            scanned = now >= next_scan
            next_scan = _poll(watch, now, next_scan)
            if scanned:
                known_faults = faults
        if watch.count:
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
        self._watch.address = address
        self._watch.page_bytes = page
        self._watch.pages = (length + page - 1) // page
        self._watch.advice = advice
        self._watch.least_ns = least_ns
        self._watch.most_ns = most_ns
        self._watch.pagemap = -1
        self._watch.seen = <unsigned char *>calloc(self._watch.pages // 8 + 1, 1)
        if self._watch.seen == NULL:
            raise MemoryError
        shm_law_start(&self._watch.law, self._watch.pages, least_step, most_ahead, patience)

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
        self._watch.pagemap = c_open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
        if self._watch.pagemap < 0:
            check("open /proc/self/pagemap", -errno)
        self._watch.can_scan = scan
        with nogil:
            # Before the caller's first touch.
            _look_everywhere(self._watch, False)
            _tell_kernel(self._watch)
        shm_bell_hang(&self._watch.bell)
        error = shm_thread_start(&self._thread, _run, self._watch)
        if error:
            self._leave()
            check("start of a watching thread", -error)
        self._owner = getpid()

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
            c_close(self._watch.pagemap)
            shm_law_rest(&self._watch.law)
            _tell_kernel(self._watch)

    def stats(self) -> Watched:
        """What was seen and done so far; the thread may be in the middle of it."""
        cdef Watch *watch = self._watch
        return Watched(
            watch.polls,
            watch.scans,
            watch.scan_ns,
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
            c_close(self._watch.pagemap)
        free(self._watch.seen)
        free(self._watch)
