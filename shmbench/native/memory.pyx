# cython: language_level=3, boundscheck=False, wraparound=False
"""Memory by address: map, touch, advise and ask, with the GIL released and errors as OSError.

Addresses are integers; `address_of` gives that of a buffer. An address that isn't mapped kills the
process (SIGSEGV) in the touch functions, and is ENOMEM or EFAULT in those that ask the kernel.
"""

from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from shmbench.native.endpoint cimport check

from typing import NamedTuple

cdef extern from *:
    """
    #define _GNU_SOURCE
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #include "dax.h"

    /* Old headers lack the newer calls. Their numbers are the same on every architecture but alpha. */
    #ifndef SYS_process_madvise
    #define SYS_process_madvise 440
    #endif
    #ifndef SYS_cachestat
    #define SYS_cachestat 451
    #endif

    struct shm_cachestat_range { uint64_t offset, length; };
    struct shm_cachestat { uint64_t cached, dirty, writeback, evicted, recently_evicted; };

    /* <linux/fs.h> since Linux 6.7 */
    struct shm_page_region { uint64_t start, end, categories; };
    struct shm_scan {
        uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
        uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
    };
    #define SHM_PAGEMAP_SCAN _IOWR('f', 16, struct shm_scan)

    static long shm_process_madvise(int pidfd, struct iovec *ranges, size_t count, int advice) {
        return syscall(SYS_process_madvise, pidfd, ranges, count, advice, 0);
    }
    static long shm_do_cachestat(int fd, struct shm_cachestat_range *range, struct shm_cachestat *found) {
        return syscall(SYS_cachestat, fd, range, found, 0);
    }
    static long shm_mbind(void *address, size_t length, int mode, unsigned long *nodes, unsigned long bits) {
        return syscall(SYS_mbind, address, length, mode, nodes, bits, 0);
    }
    static int shm_do_scan(int fd, struct shm_scan *scan) { return ioctl(fd, SHM_PAGEMAP_SCAN, scan); }

    static uint64_t shm_touch_read(const volatile unsigned char *p, size_t length, size_t stride) {
        uint64_t sum = 0;
        for (size_t i = 0; i < length; i += stride) sum += p[i];
        return sum;
    }
    /* A compare-and-swap of a byte with itself is a write to the page table, never to the content,
       even while somebody else writes there; a compiler may turn `or 0` into a load. */
    static void shm_touch_write(unsigned char *p, size_t length, size_t stride) {
        for (size_t i = 0; i < length; i += stride) {
            unsigned char seen = __atomic_load_n(p + i, __ATOMIC_RELAXED);
            while (!__atomic_compare_exchange_n(p + i, &seen, seen, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
        }
    }
    """
    enum:
        _SC_PAGESIZE
        O_RDONLY
        O_CLOEXEC
        PROT_NONE
        PROT_READ
        PROT_WRITE
        C_MAP_SHARED "MAP_SHARED"
        C_MAP_PRIVATE "MAP_PRIVATE"
        C_MAP_ANONYMOUS "MAP_ANONYMOUS"
        C_MAP_POPULATE "MAP_POPULATE"
        C_MAP_HUGETLB "MAP_HUGETLB"
        MAP_FIXED
        MAP_NORESERVE
    struct iovec:
        void *iov_base
        size_t iov_len
    struct shm_cachestat_range:
        uint64_t offset, length
    struct shm_cachestat:
        uint64_t cached, dirty, writeback, evicted, recently_evicted
    struct shm_page_region:
        uint64_t start, end, categories
    struct shm_scan:
        uint64_t size, start, end, walk_end, vec, vec_len
        uint64_t category_inverted, category_mask, category_anyof_mask, return_mask
    void *MAP_FAILED
    long sysconf(int name) nogil
    int c_open "open"(const char *path, int flags) nogil
    int c_close "close"(int fd) nogil
    void *c_mmap "mmap"(void *address, size_t length, int prot, int flags, int fd, int64_t offset) nogil
    int c_munmap "munmap"(void *address, size_t length) nogil
    int c_madvise "madvise"(void *address, size_t length, int advice) nogil
    int c_mincore "mincore"(void *address, size_t length, unsigned char *pages) nogil
    long shm_process_madvise(int pidfd, iovec *ranges, size_t count, int advice) nogil
    long shm_do_cachestat(int fd, shm_cachestat_range *range, shm_cachestat *found) nogil
    bint shm_is_dax(int fd) nogil
    long shm_mbind(void *address, size_t length, int mode, unsigned long *nodes, unsigned long bits) nogil
    int shm_do_scan(int fd, shm_scan *scan) nogil
    uint64_t shm_touch_read(const unsigned char *p, size_t length, size_t stride) nogil
    void shm_touch_write(unsigned char *p, size_t length, size_t stride) nogil


PAGE_BYTES = sysconf(_SC_PAGESIZE)

# <linux/mman.h>; the numbers are part of the kernel's interface
MADV_NORMAL = 0
MADV_RANDOM = 1
MADV_SEQUENTIAL = 2
MADV_WILLNEED = 3
MADV_DONTNEED = 4
MADV_REMOVE = 9
MADV_HUGEPAGE = 14
MADV_NOHUGEPAGE = 15
MADV_COLD = 20
MADV_PAGEOUT = 21
MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23
MADV_COLLAPSE = 25

MAP_SHARED = C_MAP_SHARED
MAP_PRIVATE = C_MAP_PRIVATE
MAP_ANONYMOUS = C_MAP_ANONYMOUS
MAP_POPULATE = C_MAP_POPULATE
MAP_HUGETLB = C_MAP_HUGETLB
# log2 of the page size, from bit 26 on: the same in mmap's and in memfd_create's flags
HUGE_2MB = 21 << 26
HUGE_1GB = 30 << 26

# <linux/mempolicy.h>
MPOL_DEFAULT = 0
MPOL_PREFERRED = 1
MPOL_BIND = 2
MPOL_INTERLEAVE = 3

# <linux/fs.h>, the categories of PAGEMAP_SCAN
PAGE_IS_WPALLOWED = 1 << 0
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5
PAGE_IS_HUGE = 1 << 6

cdef enum:
    IOVEC_MAX = 1024  # UIO_MAXIOV: process_madvise takes no more in one call
    REGIONS_A_CALL = 256
    NODE_WORDS = 16  # 1024 NUMA nodes


class CacheStat(NamedTuple):
    """What cachestat(2) counts, in pages."""

    cached: int
    dirty: int
    writeback: int
    evicted: int
    recently_evicted: int


def address_of(buffer) -> int:
    """The address of a contiguous buffer's first byte; the caller keeps the buffer alive.

    Raises:
        BufferError: the buffer is not contiguous.
    """
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    address = <uintptr_t>view.buf
    PyBuffer_Release(&view)
    return address


cdef class _Pages:
    """What is mapped; it is unmapped with the last one who looks at it."""

    cdef uintptr_t address
    cdef size_t length
    cdef char *around
    cdef size_t around_length

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *>self.address, self.length, 0, flags)

    def __dealloc__(self):
        # It can't fail: the range is ours alone, from its first byte to its last.
        if self.around != NULL:
            with nogil:
                c_munmap(self.around, self.around_length)


cdef class Mapping:
    """An mmap(2), readable and writable, with an unreadable page before and behind it.

    The pages around it make an overrun a SIGSEGV instead of somebody else's wrong bytes, and keep
    the kernel from merging it with its neighbours, so that smaps shows it alone.
    `close` unmaps it, or, while memoryviews or arrays still look at it, leaves that to the last of
    them.

    Args:
        length: bytes, a multiple of the page size that `flags` and `fd` imply.
        flags: MAP_SHARED or MAP_PRIVATE, with MAP_ANONYMOUS, MAP_HUGETLB, MAP_POPULATE ...
        fd: what to map from its beginning; -1 with MAP_ANONYMOUS. It may be closed afterwards.
        alignment: of the address, a power of two of at least a page.

    Raises:
        OSError: the kernel refuses; ENOMEM also where too few huge pages are reserved.
    """

    cdef readonly uintptr_t address
    cdef readonly size_t length
    cdef _Pages _pages

    def __cinit__(self, size_t length, *, int flags, int fd=-1, size_t alignment=0):
        cdef size_t page = sysconf(_SC_PAGESIZE)
        cdef void *mapped
        cdef int error
        alignment = max(alignment, page)
        if length == 0 or alignment & (alignment - 1):
            raise ValueError(f"can't map {length} bytes aligned to {alignment}")
        cdef size_t around_length = length + alignment + page
        cdef char *around
        with nogil:
            mapped = c_mmap(
                NULL, around_length, PROT_NONE,
                C_MAP_PRIVATE | C_MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
            )
            error = errno
        if mapped == MAP_FAILED:
            check(f"mmap of {around_length} bytes of addresses", -error)
        around = <char *>mapped
        self.address = (<uintptr_t>mapped + page + alignment - 1) & ~(alignment - 1)
        self.length = length
        with nogil:
            mapped = c_mmap(
                <void *>self.address, length, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0
            )
            error = errno
            if mapped == MAP_FAILED:
                c_munmap(around, around_length)
        if mapped == MAP_FAILED:
            check(f"mmap of {length} bytes", -error)
        self._pages = _Pages.__new__(_Pages)
        self._pages.address = self.address
        self._pages.length = length
        self._pages.around = around
        self._pages.around_length = around_length

    def view(self):
        """The bytes. Its object is the pages and not this mapping: NumPy gives views back, and
        holds on to their object only. Raises ValueError once it is closed.
        """
        if self._pages is None:
            raise ValueError("the mapping is closed")
        return PyMemoryView_FromObject(self._pages)

    def close(self):
        """Unmap, as soon as nobody looks at it any more; idempotent."""
        self._pages = None


def touch_read(uintptr_t address, size_t length, size_t stride=4096) -> int:
    """Read one byte in every `stride` and give their sum, so that no compiler leaves it out."""
    cdef uint64_t total
    if stride == 0:
        raise ValueError("the stride is 0")
    with nogil:
        total = shm_touch_read(<const unsigned char *>address, length, stride)
    return total


def touch_write(uintptr_t address, size_t length, size_t stride=4096):
    """Write one byte in every `stride` without changing it, not even under a concurrent writer."""
    if stride == 0:
        raise ValueError("the stride is 0")
    with nogil:
        shm_touch_write(<unsigned char *>address, length, stride)


def fill(uintptr_t address, size_t length, unsigned char byte):
    """Set every byte."""
    with nogil:
        memset(<void *>address, byte, length)


def madvise(uintptr_t address, size_t length, int advice):
    """madvise(2): one MADV_* for pages of this process. Raises OSError."""
    cdef int status, error
    with nogil:
        status = c_madvise(<void *>address, length, advice)
        error = errno
    if status:
        check(f"madvise({advice})", -error)


def process_madvise(int pidfd, ranges, int advice) -> int:
    """process_madvise(2): one MADV_* for many ranges, 1024 a call, of the process behind a pidfd.

    Args:
        pidfd: of os.pidfd_open.
        ranges: (address, length in bytes) pairs, page-aligned.
        advice: MADV_COLD, PAGEOUT, WILLNEED, COLLAPSE; others only where the kernel allows them.

    Returns:
        How many bytes were advised.

    Raises:
        OSError: the kernel refused a range; those before it have been advised.
    """
    cdef list pending = [(start, size) for start, size in ranges if size]
    cdef size_t count = len(pending), done = 0, i
    cdef long advised
    cdef int error
    cdef uint64_t total = 0
    cdef iovec *vector = <iovec *>malloc(max(1, count) * sizeof(iovec))
    if vector == NULL:
        raise MemoryError
    try:
        for i in range(count):
            vector[i].iov_base = <void *><uintptr_t>pending[i][0]
            vector[i].iov_len = pending[i][1]
        while done < count:
            with nogil:
                advised = shm_process_madvise(
                    pidfd, vector + done, min(count - done, <size_t>IOVEC_MAX), advice
                )
                error = errno
            if advised < 0:
                check(f"process_madvise({advice})", -error)
            total += advised
            # The kernel may stop in the middle of a range.
            while done < count and <size_t>advised >= vector[done].iov_len:
                advised -= vector[done].iov_len
                done += 1
            if advised:
                vector[done].iov_base = <char *>vector[done].iov_base + advised
                vector[done].iov_len -= advised
    finally:
        free(vector)
    return total


def mincore(uintptr_t address, size_t length) -> bytes:
    """mincore(2): a byte a page; its lowest bit is set where a page is in memory. Raises OSError."""
    cdef size_t page = sysconf(_SC_PAGESIZE)
    cdef bytearray pages = bytearray((length + page - 1) // page)
    cdef unsigned char *vector = pages
    cdef int status, error
    with nogil:
        status = c_mincore(<void *>address, length, vector)
        error = errno
    if status:
        check("mincore", -error)
    return bytes(pages)


def cachestat(int fd, uint64_t offset=0, uint64_t length=0) -> CacheStat:
    """cachestat(2), Linux 6.5: what the page cache holds of a file.

    Args:
        fd: of a file that the caller owns or may write.
        offset: where to begin, in bytes.
        length: how many bytes; 0: to the end of the file.

    Raises:
        OSError: ENOSYS before Linux 6.5, EPERM for somebody else's file.
    """
    cdef shm_cachestat_range where
    cdef shm_cachestat found
    cdef long status
    cdef int error
    where.offset = offset
    where.length = length
    with nogil:
        status = shm_do_cachestat(fd, &where, &found)
        error = errno
    if status:
        check("cachestat", -error)
    return CacheStat(
        found.cached, found.dirty, found.writeback, found.evicted, found.recently_evicted
    )


def is_dax(int fd) -> bool:
    """statx(2), Linux 5.8: is the file mapped where it lies, without the page cache?"""
    cdef bint found
    with nogil:
        found = shm_is_dax(fd)
    return found


def pagemap_scan(
    uintptr_t address,
    uint64_t length,
    *,
    uint64_t all_of=0,
    uint64_t any_of=0,
    uint64_t inverted=0,
    uint64_t returned=0x7F,
) -> list:
    """PAGEMAP_SCAN, Linux 6.7 (ioctl of /proc/self/pagemap): this process's pages by category.

    Args:
        address: page-aligned.
        length: in bytes.
        all_of: PAGE_IS_* that a page must all have to be listed; 0: no condition.
        any_of: PAGE_IS_* of which a page must have one; 0: no condition.
        inverted: PAGE_IS_* that count for the two above when a page does not have them.
        returned: PAGE_IS_* to report.

    Returns:
        (start address, end address, PAGE_IS_* mask) for each run of pages with one mask, in order.

    Raises:
        OSError: ENOTTY before Linux 6.7.
    """
    cdef shm_page_region regions[REGIONS_A_CALL]
    cdef shm_scan scan
    cdef int fd, found = 0, error = 0, i
    cdef list result = []
    memset(&scan, 0, sizeof(scan))
    scan.size = sizeof(scan)
    scan.start = address
    scan.end = address + length
    scan.vec = <uintptr_t>regions
    scan.vec_len = REGIONS_A_CALL
    scan.category_mask = all_of
    scan.category_anyof_mask = any_of
    scan.category_inverted = inverted
    scan.return_mask = returned
    with nogil:
        fd = c_open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
        error = errno
    if fd < 0:
        check("open /proc/self/pagemap", -error)
    try:
        while scan.start < scan.end:
            with nogil:
                found = shm_do_scan(fd, &scan)
                error = errno
            if found < 0:
                check("PAGEMAP_SCAN", -error)
            for i in range(found):
                result.append((regions[i].start, regions[i].end, regions[i].categories))
            scan.start = scan.walk_end
    finally:
        c_close(fd)
    return result


def mbind(uintptr_t address, size_t length, int mode, nodes):
    """mbind(2): which NUMA nodes the pages of a mapping come from; before they are touched.

    Args:
        address: page-aligned.
        length: in bytes.
        mode: MPOL_*.
        nodes: node numbers below 1024.

    Raises:
        OSError: EINVAL for a node that isn't there, ENOSYS without NUMA.
    """
    cdef unsigned long mask[NODE_WORDS]
    cdef size_t bits = 8 * sizeof(mask), word = 8 * sizeof(unsigned long), node
    cdef long status
    cdef int error
    memset(mask, 0, sizeof(mask))
    for node in nodes:
        if node >= bits:
            raise ValueError(f"node {node} is beyond {bits - 1}")
        mask[node // word] |= 1UL << (node % word)
    with nogil:
        # The kernel looks at one bit less than it is told.
        status = shm_mbind(<void *>address, length, mode, mask, bits + 1)
        error = errno
    if status:
        check(f"mbind({mode})", -error)
