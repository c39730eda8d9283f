# cython: language_level=3, boundscheck=False, wraparound=False
"""Which pages of a mapping are mapped, and which have become so since the last look.

All of the range by PAGEMAP_SCAN (Linux 6.7), or by reading /proc/self/pagemap before; the next pages
of known streams one by one. Addresses that aren't mapped (any more) are nothing but empty to it.
"""

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memset

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/ioctl.h>
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

    static int64_t shm_thread_time_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return now.tv_sec * 1000000000LL + now.tv_nsec;
    }
    """
    enum:
        O_RDONLY
        O_CLOEXEC
        SHM_PAGE_IS_PRESENT
    struct shm_run:
        uint64_t start, end, categories
    struct shm_scan:
        uint64_t size, start, end, walk_end, vec, vec_len, category_mask, return_mask
    int c_open "open"(const char *path, int flags) nogil
    ssize_t c_pread "pread"(int fd, void *buffer, size_t length, int64_t offset) nogil
    int shm_do_scan(int fd, shm_scan *scan) nogil
    int64_t shm_thread_time_ns() nogil

cdef enum:
    RUNS = 1024  # taken from the kernel at once
    ENTRIES = 512  # of the page map, read at once
    STREAM_LOOK = 256  # steps of a stream in one look


cdef int page_map_open(PageMap *map) noexcept nogil:
    """0, or a negative errno."""
    map.file = c_open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
    return -errno if map.file < 0 else 0


cdef bint _was_seen(PageMap *map, int64_t page) noexcept nogil:
    return map.seen[page >> 3] >> (page & 7) & 1


cdef void _note(PageMap *map, int64_t page, bint fresh) noexcept nogil:
    map.seen[page >> 3] |= 1 << (page & 7)
    if fresh and map.count < TOUCHES:
        map.touches[map.count] = page
        map.count += 1


cdef void _forget(PageMap *map, int64_t first, int64_t behind) noexcept nogil:
    # Pages that are not mapped (any more), so that they count when they are mapped again.
    while first < behind:
        if first & 7 == 0 and behind - first >= 8:
            map.seen[first >> 3] = 0
            first += 8
        else:
            map.seen[first >> 3] &= ~(1 << (first & 7))
            first += 1


cdef void _mapped(PageMap *map, int64_t first, int64_t behind, bint fresh) noexcept nogil:
    while first < behind:
        if first & 7 == 0 and behind - first >= 8 and map.seen[first >> 3] == 0xFF:
            first += 8
        else:
            if not _was_seen(map, first):
                _note(map, first, fresh)
            first += 1


cdef bint _scan(PageMap *map, bint fresh) noexcept nogil:
    # By ioctl; False where the kernel does not know it.
    cdef shm_run runs[RUNS]
    cdef shm_scan scan
    cdef int found, i
    cdef int64_t at = 0, first
    memset(&scan, 0, sizeof(scan))
    scan.size = sizeof(scan)
    scan.start = map.address
    scan.end = map.address + map.pages * map.page_bytes
    scan.vec = <uintptr_t>runs
    scan.vec_len = RUNS
    scan.category_mask = SHM_PAGE_IS_PRESENT
    scan.return_mask = SHM_PAGE_IS_PRESENT
    while scan.start < scan.end:
        found = shm_do_scan(map.file, &scan)
        if found < 0:
            return False
        for i in range(found):
            first = (runs[i].start - map.address) // map.page_bytes
            _forget(map, at, first)
            at = (runs[i].end - map.address) // map.page_bytes
            _mapped(map, first, at, fresh)
        scan.start = scan.walk_end
    _forget(map, at, map.pages)
    return True


cdef int64_t _read_entries(PageMap *map, int64_t page, int64_t count, uint64_t *entries) noexcept nogil:
    # Bit 63: present (Documentation/admin-guide/mm/pagemap.rst).
    cdef int64_t at = (map.address // map.page_bytes + page) * sizeof(uint64_t)
    return c_pread(map.file, entries, count * sizeof(uint64_t), at) // <int64_t>sizeof(uint64_t)


cdef void _read_all(PageMap *map, bint fresh) noexcept nogil:
    cdef uint64_t entries[ENTRIES]
    cdef int64_t page = 0, got, i
    while page < map.pages:
        got = _read_entries(map, page, min(map.pages - page, <int64_t>ENTRIES), entries)
        if got <= 0:
            return
        for i in range(got):
            if entries[i] >> 63:
                _mapped(map, page + i, page + i + 1, fresh)
            else:
                _forget(map, page + i, page + i + 1)
        page += got


cdef int64_t look_everywhere(PageMap *map, bint fresh) noexcept nogil:
    """A look at all pages; gives the CPU time that it took. `fresh`: those that are new are touches."""
    cdef int64_t begin = shm_thread_time_ns(), took
    if map.can_scan:
        map.can_scan = _scan(map, fresh)
    if not map.can_scan:
        _read_all(map, fresh)
    map.scans += 1
    took = shm_thread_time_ns() - begin
    map.scan_ns += took
    return took


cdef void look_along(PageMap *map, int64_t last, int64_t step) noexcept nogil:
    """A look at a stream's next pages one by one, which is cheaper than the range between them."""
    cdef int64_t page = last
    cdef uint64_t entry
    cdef int steps
    for steps in range(STREAM_LOOK):
        page += step
        if page < 0 or page >= map.pages or _was_seen(map, page):
            break
        if _read_entries(map, page, 1, &entry) != 1 or not entry >> 63:
            break
        _note(map, page, True)


cdef void sort_touches(PageMap *map) noexcept nogil:
    # Nearly sorted: one ascending piece a stream, and one of the scan.
    cdef int64_t *pages = map.touches
    cdef int64_t i, j, page
    for i in range(1, map.count):
        page = pages[i]
        j = i
        while j > 0 and pages[j - 1] > page:
            pages[j] = pages[j - 1]
            j -= 1
        pages[j] = page
