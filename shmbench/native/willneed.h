/* MADV_WILLNEED for a range of any length. */
#ifndef SHMBENCH_WILLNEED_H
#define SHMBENCH_WILLNEED_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

/* Of one call the kernel reads no more than the device's read-ahead or its largest request, and says nothing
   about the rest (force_page_cache_ra in mm/readahead.c). 128 KiB is the smallest read-ahead by default. */
enum { SHM_WILLNEED_BYTES = 128 << 10 };

static inline int shm_willneed(uintptr_t address, size_t length) {
    while (length) {
        size_t n = length < SHM_WILLNEED_BYTES ? length : SHM_WILLNEED_BYTES;
        if (madvise((void *)address, n, MADV_WILLNEED)) return errno;
        address += n;
        length -= n;
    }
    return 0;
}

#endif
