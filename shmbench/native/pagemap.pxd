"""Which pages of a mapping are mapped, and which have become so since the last look."""

from libc.stdint cimport int64_t, uint64_t, uintptr_t

cdef enum:
    TOUCHES = 4096  # noted in one look; more at a time are no pattern that could be helped

cdef struct PageMap:
    uintptr_t address
    int64_t pages, page_bytes
    int file, can_scan
    unsigned char *seen  # a bit a page: was it mapped when last looked at
    int64_t touches[TOUCHES]
    int64_t count
    uint64_t scans, scan_ns

cdef int page_map_open(PageMap *map) noexcept nogil
cdef int64_t look_everywhere(PageMap *map, bint fresh) noexcept nogil
cdef void look_along(PageMap *map, int64_t last, int64_t step) noexcept nogil
cdef void sort_touches(PageMap *map) noexcept nogil
