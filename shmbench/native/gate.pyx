# cython: language_level=3, boundscheck=False, wraparound=False
"""What stands between a program and the bytes of a mapping: are they there; who has to know?"""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from shmbench.native.reach cimport Reach, T_FAILED, T_TOUCHED, T_WAITED
from shmbench.native.stride_law cimport StrideLaw
from shmbench.native.views cimport part_of

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <linux/magic.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/statfs.h>
    #include <sys/sysinfo.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <time.h>
    #include <unistd.h>
    #include "dax.h"
    #include "populate.h"
    #include "userfaultfd.h"
    #include "willneed.h"
    #ifndef SYS_cachestat
    #define SYS_cachestat 451
    #endif

    enum { SHM_ALWAYS_IN_MEMORY = 2 };
    static int shm_always_in_memory(int fd) {
        struct statfs found;
        struct sysinfo node;
        if (fd < 0) return 0;
        return shm_is_dax(fd) || (!fstatfs(fd, &found) && found.f_type == TMPFS_MAGIC &&
                                  !sysinfo(&node) && node.totalswap == 0);
    }

    /* Are all bytes of the range in the page cache? 1, 0, -1: the file ends before (told where it
       has to be looked up anyway), 2: not known, 3: the whole file is.
       cachestat also counts pages that are still being read; with `doubt`, preadv2 tells
       by RWF_NOWAIT whether the last one is among them. It comes second, since it would read a
       page that is not there, one by one. `known` is cleared where cachestat is refused (somebody
       else's file) or missing (before Linux 6.5). */
    static int shm_there(int fd, uint64_t first, uint64_t length, uint64_t pages, int doubt,
                         int *known) {
        off_t last = (off_t)(first + length - 1);
        uint64_t range[2] = {first, length}, found[5];
        if (*known == SHM_ALWAYS_IN_MEMORY) {
            struct stat found;
            if (fstat(fd, &found)) return 0;
            if (found.st_size <= last) return -1;
            if (found.st_blocks * 512 >= found.st_size || shm_is_dax(fd)) return 3;
        }
        if (!*known) return 2;
        if (syscall(SYS_cachestat, fd, range, found, 0)) {
            *known = 0;
            return 2;
        }
        if (found[0] < pages) return 0;
        if (doubt) {
            char byte;
            struct iovec to = {&byte, 1};
            if (preadv2(fd, &to, 1, last, RWF_NOWAIT) < 0 && errno == EAGAIN) return 0;
        }
        return 1;
    }

    static uint64_t shm_now_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }

    /* How long it takes to count the range's pages in the page cache, in ns; -1: not allowed, or
       not all of `pages` are there (or about to be). */
    static int64_t shm_count_ns(int fd, uint64_t first, uint64_t length, uint64_t pages) {
        uint64_t range[2] = {first, length}, found[5], begin_ns = shm_now_ns();
        if (syscall(SYS_cachestat, fd, range, found, 0) || found[0] < pages) return -1;
        return (int64_t)(shm_now_ns() - begin_ns);
    }

    static long shm_coarse_seconds(void) {  /* of the last tick: a few nanoseconds */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return now.tv_sec;
    }

    /* The kernel may refuse to populate pages that only userfaultfd's handler may map: they come
       first. Again, since the handler may have begun to handle faults in between. */
    static int shm_populate_handled(
        uintptr_t address, size_t length, size_t page, int advice, int userfaultfd
    ) {
        int error = EFAULT, refused;
        for (int tries = 0; error == EFAULT && tries < 3; tries++) {
            shm_uffd_continue(userfaultfd, address, length, page, length / page, &refused);
            error = shm_populate(address, length, page, advice);
        }
        return error;
    }
    """
    enum:
        _SC_PAGESIZE
        MADV_RANDOM
        MADV_POPULATE_READ
        MADV_POPULATE_WRITE
        SEEK_END
        MS_SYNC
    long sysconf(int name) nogil
    int shm_willneed(uintptr_t address, size_t length) nogil
    int madvise(void *address, size_t length, int advice) nogil
    int msync(void *address, size_t length, int flags) nogil
    int SHM_ALWAYS_IN_MEMORY
    int shm_always_in_memory(int fd) nogil
    int shm_there(
        int fd, uint64_t first, uint64_t length, uint64_t pages, int doubt, int *known
    ) nogil
    int64_t shm_count_ns(int fd, uint64_t first, uint64_t length, uint64_t pages) nogil
    int64_t lseek(int fd, int64_t offset, int whence) nogil
    uint64_t shm_now_ns() nogil
    long shm_coarse_seconds() nogil
    int shm_populate(uintptr_t address, size_t length, size_t page, int advice) nogil
    int shm_populate_by(
        uintptr_t address, size_t length, size_t page, int advice, int threads
    ) nogil
    int shm_populate_handled(
        uintptr_t address, size_t length, size_t page, int advice, int userfaultfd
    ) nogil

cdef enum:
    SPANS = 16
    WAKING_BYTES = 256 << 10
    ALONE_PAGES = 2
    TOUCH_PAGES = 16  # what one fault maps, where the kernel's fault-around is as it comes
    PART_BYTES = 1 << 20  # what is looked at as a whole once it has been read from often enough
    PROMPT_NS = 30000  # a populate that takes longer had to wait for a device
    PROMPT_PAGE_NS = 2000
    PART_WAIT = 32  # accesses until the next look at a part, after one in vain
    TOUCH_NS = 100  # what a touch costs beyond the fault that the reader's own would have been
    LOOK_TOUCHES = 5  # a look at a page of the page cache costs as much as so many touches
    PART_TOUCHES = 6  # of a part, at least, before it is looked at as a whole
    PART_TOUCHES_MAX = 200  # before PART_THERE
    PRICED_TOUCHES = 40  # until it is learned what a look at more costs
    PRICED_PARTS = 16
    ALL_WORTH = 2  # a look at all may cost so many times as much as what has led to it
    DOUBT_FIRST = 16  # accesses to a new mapping: somebody else may be reading the file in
    DOUBT = 4096  # accesses after a miss; a kernel's read-ahead window may have 2048 pages
    HUGE_LOOK_NS = 4000  # at 64 MiB of huge pages 2 us; 16 us more where 2 MiB are in small ones
    LONG_PAGES = 1024  # from here on even a look at the page cache releases the GIL

    C_READY = 0
    C_ASK = 1
    C_OUTSIDE = 2
    C_SHRUNK = 3

    PART_THERE = 255  # below: touches so far

READY = C_READY
ASK = C_ASK
OUTSIDE = C_OUTSIDE
SHRUNK = C_SHRUNK


cdef class Gate:
    """Sees to it that bytes are in memory before they are handed out, and says who is to be asked.

    `enter` touches the pages of a short access without the GIL, and when that took long asks the
    kernel whether it had to wait. Where a touch won't do (many pages, userfaultfd, a SIGBUS that
    isn't ours to handle) it looks at the page cache, by a system call or two, and populates what
    isn't there. A part of 1 MiB, or a file, that is there as a whole is taken to be there for the
    rest of the second: an access then costs a load from a tripwire, which tells whether the file
    has shrunk, or, on its last page and where there can be no tripwire, one system call for its
    length. It never raises a signal: a file that shrank is an answer. It dozes at first: as long as
    no page is missing, and no long run of accesses is contiguous, there is nothing that the law of
    the window could gain, and the law, which is Python, is not asked. Nor is it for accesses to
    quiet spans. With `map_strides` it maps ahead of strides over what is in memory, by itself, until a
    page is missing.

    Args:
        address: of the first byte, anywhere in a page.
        length: in bytes.
        fd: of the mapped file, open as long as the gate is used; -1 for memory without a file.
        offset: of the first byte in the file.
        piece_bytes: what one system call populates; signals are handled in between.
        memory: the mapping's bytes, for `read`.
        owner: a weak reference to the object whose `_attend(answer, offset, length)` gives `read` the
            bytes where `enter` could not settle an access by itself.

    Attributes:
        asking: whether `enter` ever answers ASK.
        waking: bytes that are read in a row before it wakes by itself, if they are read slowly.
        waking_left: bytes that have to be left in the run's direction then.
        slow_ns: a page of such a run has to take so long; 0: any may.
        run_ns: what a page took in the run that woke it; 0: something else did, or nothing yet.
        exact: read-ahead is off: tell the kernel of long accesses as a whole.
        may_begin_alone: turn read-ahead off for the first access, if it is short: around it the
            kernel would read megabytes, which what comes next waits for, wherever that is.
        alone: that was done; who asks next turns read-ahead on again, or keeps it off.
        userfaultfd: that handles the mapping's minor faults, so that populating may fail without
            it; -1: none.
        map_strides: map a stride's next steps with the one that is read, as `stride_law` says.
        misses: accesses that found pages missing.
    """

    cdef readonly uintptr_t address
    cdef readonly size_t length
    cdef readonly int error
    cdef readonly uint64_t accesses, misses, bytes_populated
    cdef public bint exact, asking, map_strides, may_begin_alone, alone
    cdef public int userfaultfd
    cdef int _fd, _known, _doubt
    cdef bint _awake
    cdef uint64_t _offset
    cdef size_t _page, _piece
    cdef size_t _starts[SPANS]
    cdef size_t _ends[SPANS]
    cdef bint _sure[SPANS]
    cdef int _next_span, _part_wait
    cdef bint _all_there
    cdef public size_t waking, waking_left
    cdef public double slow_ns
    cdef readonly double run_ns
    cdef uint64_t _timed_since_ns
    cdef size_t _last_start, _last_end, _contiguous, _waking, _part_count
    cdef size_t _touches_for_part  # what the last look at one has cost
    cdef size_t _touches, _touches_for_all  # so far, those that looks have cost among them
    cdef Reach _reach
    cdef StrideLaw _strides
    cdef unsigned char *_parts
    cdef long _parts_since_s
    cdef object _memory, _owner

    def __cinit__(
        self, uintptr_t address, size_t length, *, int fd=-1, uint64_t offset=0,
        size_t piece_bytes=32 << 20, object memory=None, object owner=None,
    ):
        self.asking = True
        self._memory = memory
        self._owner = owner
        self._part_count = length // PART_BYTES + 1
        self._parts = <unsigned char *>calloc(self._part_count, 1)
        if self._parts == NULL:
            raise MemoryError
        self.userfaultfd = -1
        self.address = address
        self.length = length
        self._fd = fd
        self._known = SHM_ALWAYS_IN_MEMORY if shm_always_in_memory(fd) else 1
        self._doubt = DOUBT_FIRST
        self._offset = offset
        self._page = sysconf(_SC_PAGESIZE)
        self._piece = piece_bytes
        self._reach = Reach(address, fd, offset, length)
        self._strides = StrideLaw()
        self._waking = self.waking = WAKING_BYTES
        self._touches_for_all = 0  # not known yet
        self._touches_for_part = PART_TOUCHES
        self._parts_since_s = shm_coarse_seconds()

    cpdef int enter(self, int64_t start, int64_t count) except -1:
        """Bring bytes in, if they aren't there.

        Args:
            start: of the bytes, from the mapping's beginning.
            count: how many bytes.

        Returns:
            READY; ASK: they are there, and the law wants to know of it; OUTSIDE: not all in the
            mapping; SHRUNK: the file ends before them (`error` is 0), or the kernel could
            not bring them (`error` is its errno).

        Raises:
            KeyboardInterrupt: and what else signal handlers raise, between two pieces.
        """
        cdef int there
        cdef size_t offset = start, length = count, end = offset + length
        if start < 0 or count < 0 or offset > self.length or length > self.length - offset:
            return C_OUTSIDE
        if length == 0:
            return C_READY
        if self.accesses == 0:
            self._reach.refresh()
            if self.may_begin_alone and self._pages(offset, end) <= ALONE_PAGES:
                self._begin_alone()
        self.accesses += 1
        cdef size_t steps = 0
        if self.map_strides and not self._awake:
            steps = self._strides.access(offset, end, self.length)
            if steps and not self._may_touch(offset, end):
                steps = 0
            elif self._strides.piece and self._populate_huge(offset, end):
                steps = 0
        cdef bint known = not steps and self._known_there(offset, end)
        cdef int span = SPANS if known and not self._awake else self._span(offset, end)
        if known or (not steps and span < SPANS and self._sure[span]):
            there = 1 if self._reach.reaches(end) else -1
        elif steps or (self._known != SHM_ALWAYS_IN_MEMORY and self._may_touch(offset, end)):
            there = self._touch(offset, end, max(steps, <size_t>1))
        else:
            there = self._there(offset, length)
            if there == 1 and self._fd >= 0:
                self._look_around(offset, LOOK_TOUCHES)
        if offset == self._last_end or end == self._last_start:
            self._contiguous += length
            if self._contiguous > self._waking and not self._awake:
                self._time_run(self.length - end if offset == self._last_end else offset)
        else:
            self._contiguous = length
            self._timed_since_ns = 0
        self._last_start = offset
        self._last_end = end
        if there < 0:
            self.error = 0
            return C_SHRUNK
        if there != 1 and self._bring(offset, length, there == 0):
            return C_SHRUNK
        return C_ASK if self._awake and self.asking and span == SPANS else C_READY

    def read(self, int64_t offset, int64_t length):
        """The bytes, once they are there: `enter`, and what its answer asks for.

        Raises:
            ValueError: nobody attends to this gate any more.
        """
        cdef int answer = self.enter(offset, length)
        # `enter` may have let go of the GIL, and another thread have closed the mapping or let it grow.
        if answer == C_READY and self._memory is not None:
            return part_of(self._memory, offset, length)
        owner = self._owner()
        if owner is None:
            raise ValueError("the mapping is closed")
        return owner._attend(answer, offset, length)

    def retire(self):
        """From now on every access is OUTSIDE: the mapping has moved, or is closed."""
        self.length = 0
        self._memory = None
        self._reach.let_go()

    cdef void _time_run(self, size_t left) noexcept:
        """Wake, once another `waking` bytes were read in this run, and took long enough.

        A run that is as fast as whoever could map ahead of it gains nothing by being watched.
        """
        cdef uint64_t since_ns = self._timed_since_ns, now_ns
        cdef size_t timed = self._contiguous
        if left < self.waking_left:
            return
        if self.slow_ns > 0:
            now_ns = self._timed_since_ns = shm_now_ns()
            self._contiguous = 0
            self._waking = self.waking
            if since_ns == 0:
                return
            self.run_ns = <double>(now_ns - since_ns) * self._page / timed
            if self.run_ns < self.slow_ns:
                return
        self._awake = True

    cdef size_t _pages(self, size_t offset, size_t end) noexcept:
        return (self.address + end - 1) // self._page - (self.address + offset) // self._page + 1

    cdef void _begin_alone(self) noexcept:
        if self._known == SHM_ALWAYS_IN_MEMORY:
            return
        cdef uintptr_t start = self.address & ~(self._page - 1)
        self.alone = madvise(<void *>start, self.address + self.length - start, MADV_RANDOM) == 0

    cdef bint _may_touch(self, size_t offset, size_t end) noexcept:
        """Not many pages where read-ahead is off."""
        return (
            self._reach.touches
            and self._memory is not None
            and self.userfaultfd < 0
            and self._pages(offset, end) <= (1 if self.exact else TOUCH_PAGES)
        )

    cdef int _touch(self, size_t offset, size_t end, size_t steps) noexcept:
        """1: in memory, and mapped; 0: a page can't be had; -1: the file ends before."""
        cdef object held = self._memory  # another thread may close the mapping meanwhile
        cdef int outcome
        if shm_coarse_seconds() != self._parts_since_s:
            self._forget_parts()
        if not self._reach.reaches(end):
            return -1
        outcome = self._reach.touch(
            self.address + offset, end - offset, self._strides.step, steps
        )
        if outcome == T_WAITED:
            self.misses += 1
            self.bytes_populated += self._pages(offset, end) * self._page
            self._wake()
        elif outcome == T_TOUCHED:
            if steps > 1:
                self._strides.touched(offset, self._reach.touched_steps, self._reach.faults)
            if self._fd >= 0 and self._memory is not None:
                self._look_around(offset, 1)
        return 0 if outcome == T_FAILED else 1

    cdef int _populate_huge(self, size_t offset, size_t end) except -1:
        """The piece that the law of strides asks for, if it is in huge pages. Whether it was done.

        It tells them by the time of a look: the page cache counts a huge page as fast as a small
        one. Among small ones, populating the rest would take far longer than the stride's faults.
        """
        cdef object held = self._memory  # another thread may close the mapping meanwhile
        cdef size_t length = self._strides.piece
        cdef size_t start = offset if self._strides.step > 0 else end - length
        cdef int64_t look_ns
        with nogil:
            look_ns = shm_count_ns(self._fd, self._offset + start, length, length // self._page)
        if (
            not 0 <= look_ns <= HUGE_LOOK_NS
            or not self._reach.reaches(start + length)
            or self._populate(start, length, MADV_POPULATE_READ)
        ):
            self._strides.refused()
            return False
        self._strides.populated(offset)
        return True

    cdef int _bring(self, size_t offset, size_t length, bint missing) except -1:
        """Populate; where it isn't known whether pages are missing, the time it takes tells."""
        cdef uint64_t begin_ns = 0 if missing else shm_now_ns()
        cdef int status = self._populate(offset, length, MADV_POPULATE_READ)
        if not missing:
            missing = shm_now_ns() - begin_ns > PROMPT_NS + PROMPT_PAGE_NS * (length // self._page)
        if missing:
            self.misses += 1
            self._wake()
        return status

    cdef int _span(self, size_t offset, size_t end) noexcept:
        """The quiet span that holds these bytes; SPANS: none does."""
        cdef int i
        for i in range(SPANS):
            if self._starts[i] <= offset and end <= self._ends[i]:
                return i
        return SPANS

    cdef bint _known_there(self, size_t offset, size_t end) noexcept:
        """Were these bytes, or the parts that hold them, in memory less than a second or so ago?"""
        cdef size_t part
        if not self._all_there and not self._strides.there:
            for part in range(offset // PART_BYTES, (end - 1) // PART_BYTES + 1):
                if self._parts[part] != PART_THERE:
                    return False
        if shm_coarse_seconds() != self._parts_since_s:
            self._forget_parts()
            return False
        return True

    cdef void _know_all(self) noexcept:
        self._all_there = self._reach.in_memory = True

    cdef void _forget_parts(self) noexcept:
        memset(self._parts, 0, self._part_count)
        self._all_there = self._reach.in_memory = False
        self._parts_since_s = shm_coarse_seconds()
        self._reach.refresh()

    cdef void _look_around(self, size_t offset, int touches) noexcept:
        """Who reads from a part again will want to know about all of it: one look for many.

        The same for the whole file, when what was spent so far justifies what that will cost.

        Args:
            touches: that the access has cost, or as much as so many.
        """
        cdef size_t part = offset // PART_BYTES
        if self._all_there:
            return
        self._touches += touches
        if self._touches_for_all == 0 and self._touches >= PRICED_TOUCHES:
            self._price_looks(part)
        if self._touches_for_all and self._touches >= self._touches_for_all:
            self._touches = 0
            if self._there(0, self.length) == 1:
                self._know_all()
            else:
                self._touches_for_all *= 4
        elif self._part_wait:
            self._part_wait -= 1
        elif self._parts[part] < self._touches_for_part:
            self._parts[part] += touches
        elif self._parts[part] != PART_THERE:
            self._look_at_part(part)

    cdef void _price_looks(self, size_t part) noexcept:
        """Learn what a look costs: large folios are counted a hundred times as fast as pages.

        By one part, and by more of them only where that one took hardly longer than a page does.
        """
        cdef uint64_t page_ns = self._time_look(part, self._page)
        cdef size_t length = PART_BYTES
        cdef uint64_t look_ns = self._time_look(part, length)
        if look_ns < page_ns + LOOK_TOUCHES * TOUCH_NS:
            length = PRICED_PARTS * PART_BYTES
            look_ns = self._time_look(part, length)
        cdef uint64_t more_ns = max(look_ns, page_ns) - page_ns
        self._touches_for_all = self._touches + (
            more_ns * self.length // length // (TOUCH_NS * ALL_WORTH)
        )

    cdef uint64_t _time_look(self, size_t part, size_t length) noexcept:
        """How long it takes to count what is there of so many bytes from a part's beginning on."""
        return max(0, shm_count_ns(self._fd, self._offset + part * PART_BYTES, length, 0))

    cdef void _look_at_part(self, size_t part) noexcept:
        """Is all of it in the page cache?"""
        cdef size_t start = part * PART_BYTES
        cdef uint64_t begin_ns = shm_now_ns()
        if self._there(start, min(<size_t>PART_BYTES, self.length - start)) == 1:
            self._parts[part] = PART_THERE
        else:
            self._part_wait = PART_WAIT
        cdef uint64_t worth = (shm_now_ns() - begin_ns) // TOUCH_NS
        self._touches_for_part = min(max(worth, <uint64_t>PART_TOUCHES), <uint64_t>PART_TOUCHES_MAX)

    cdef int _there(self, size_t offset, size_t length) noexcept:
        """1: in the page cache; 0: not all; 2: not known; -1: the file ends before."""
        cdef uint64_t first = self._offset + offset, pages
        cdef int there
        if self._fd < 0:
            return 2
        pages = (first + length - 1) // self._page - first // self._page + 1
        if self._known != SHM_ALWAYS_IN_MEMORY and not self._reach.reaches(offset + length):
            return -1
        if pages < LONG_PAGES:
            there = shm_there(self._fd, first, length, pages, self._doubt, &self._known)
        else:
            with nogil:
                there = shm_there(self._fd, first, length, pages, self._doubt, &self._known)
        if there == 3:
            if shm_coarse_seconds() != self._parts_since_s:
                self._forget_parts()
            self._know_all()
            there = 1
        # Where a page was missing, others may be on their way.
        self._doubt = DOUBT if there == 0 or self.exact else max(0, self._doubt - 1)
        return there

    cdef int _populate(
        self, size_t offset, size_t length, int advice, int threads=1
    ) except -1:
        cdef uintptr_t start = (self.address + offset) & ~(self._page - 1)
        cdef uintptr_t end = (self.address + offset + length + self._page - 1) & ~(self._page - 1)
        cdef size_t n
        cdef int error = 0
        cdef bint ask_first = self.exact and end - start > self._page
        while start < end:
            n = min(self._piece * threads, end - start)
            with nogil:
                if ask_first:
                    shm_willneed(start, n)
                if self.userfaultfd < 0 and threads > 1:
                    error = shm_populate_by(start, n, self._page, advice, threads)
                elif self.userfaultfd < 0:
                    error = shm_populate(start, n, self._page, advice)
                else:
                    error = shm_populate_handled(start, n, self._page, advice, self.userfaultfd)
            if error == EINTR or error == EAGAIN:
                error = 0
                PyErr_CheckSignals()
                continue
            if error:
                self.error = error
                return 1
            self.bytes_populated += n
            start += n
            PyErr_CheckSignals()
        return 0

    def populate(self, size_t offset, size_t length, bint write=False, int threads=1) -> int:
        """Map pages, present in the page cache or not; answers as `enter` does, never ASK.

        Args:
            offset: from the mapping's beginning.
            length: in bytes.
            write: ready to be written to: blocks of the file are allocated, pages are dirty.
            threads: how many do it, the caller among them.
        """
        if offset > self.length or length > self.length - offset:
            return C_OUTSIDE
        if length and self._there(offset, length) < 0:
            self.error = 0
            return C_SHRUNK
        advice = MADV_POPULATE_WRITE if write else MADV_POPULATE_READ
        return C_SHRUNK if self._populate(offset, length, advice, threads) else C_READY

    def expect_reads(self):
        """Somebody has begun to read the file in: what the page cache has may not be there yet."""
        self._doubt = DOUBT
        self._forget_parts()

    @property
    def all_there(self) -> bool:
        """Whether the whole file was found in the page cache, a second ago at most."""
        return bool(self._all_there) and shm_coarse_seconds() == self._parts_since_s

    def there(self, size_t offset, size_t length) -> bool:
        """Are all these bytes in the page cache (False also where that can't be known)?"""
        return length > 0 and self._there(offset, length) == 1

    def quiet(self, size_t start, size_t end, bint sure=False):
        """No need to be asked about accesses to these bytes; the oldest of 16 spans gives way.

        Args:
            start: of the span, in bytes from the mapping's beginning.
            end: of the span; it replaces the spans that overlap it.
            sure: they are known to be in memory: `enter` looks only whether the file is still
                long enough. Should memory run short meanwhile, the reader's own touch waits.
        """
        cdef int i
        for i in range(SPANS):
            if self._starts[i] < end and start < self._ends[i]:
                self._starts[i] = self._ends[i] = 0
        i = self._next_span
        self._starts[i] = start
        self._ends[i] = end
        self._sure[i] = sure
        self._next_span = (i + 1) % SPANS

    def flush(self, size_t offset, size_t length) -> int:
        """msync(2) with MS_SYNC: what was written is on the device. Gives 0, or an errno."""
        cdef uintptr_t start = (self.address + offset) & ~(self._page - 1)
        cdef int error = 0
        with nogil:
            if msync(<void *>start, self.address + offset + length - start, MS_SYNC):
                error = errno
        return error

    def carry_on(self, Gate before):
        """Count on from another gate's figures: the mapping has moved."""
        self.accesses = before.accesses
        self.misses = before.misses
        self.bytes_populated = before.bytes_populated
        self._reach.refresh()

    def doze(self, size_t contiguous=0):
        """No need to be asked until a page is missing, or so many bytes (or `waking`, if that is
        more) were read in a row.
        """
        self._awake = False
        self._contiguous = 0
        self._timed_since_ns = 0
        self._waking = max(contiguous, self.waking)

    cdef void _wake(self) noexcept:
        self._strides.forget()
        self._awake = True
        self.run_ns = 0

    def __dealloc__(self):
        free(self._parts)
