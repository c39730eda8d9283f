/* Files that are mapped where they lie, in persistent memory, without the page cache (DAX). */
#ifndef SHMBENCH_DAX_H
#define SHMBENCH_DAX_H

#include <fcntl.h>
#include <sys/stat.h>

#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX 0x00200000 /* Linux 5.8 */
#endif

static inline int shm_is_dax(int fd) {
    struct statx found;
    return !statx(fd, "", AT_EMPTY_PATH, 0, &found) && (found.stx_attributes & STATX_ATTR_DAX);
}

#endif
