/* Mapping pages before they are used, by the caller or by several threads at once. */
#ifndef SHMBENCH_POPULATE_H
#define SHMBENCH_POPULATE_H

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bell.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

static inline int shm_populate(uintptr_t address, size_t length, size_t page, int advice) {
    if (madvise((void *)address, length, advice) == 0) return 0;
    if (errno != EINVAL || advice != MADV_POPULATE_READ) return errno;
    struct iovec to, from;   /* before Linux 5.14: a byte a page through the kernel */
    char byte;
    to.iov_base = &byte;
    for (size_t i = 0; i < length; i += page) {
        from.iov_base = (void *)(address + i);
        to.iov_len = from.iov_len = 1;
        if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != 1) return errno;
    }
    return 0;
}

/* What one thread takes at a time: what one page of the page table maps, so that no two threads
   wait for its lock. */
enum { SHM_POPULATE_SHARE = 2 << 20, SHM_POPULATE_THREADS = 64 };

struct shm_populating {
    uintptr_t next, start, end;
    size_t page;
    int advice, error;
};

static void *shm_populate_shares(void *argument) {
    struct shm_populating *all = argument;
    while (!__atomic_load_n(&all->error, __ATOMIC_RELAXED)) {
        uintptr_t at = __atomic_fetch_add(&all->next, SHM_POPULATE_SHARE, __ATOMIC_RELAXED);
        if (at >= all->end) break;
        uintptr_t start = at > all->start ? at : all->start;
        uintptr_t end = all->end - at > SHM_POPULATE_SHARE ? at + SHM_POPULATE_SHARE : all->end;
        int error;
        do error = shm_populate(start, end - start, all->page, all->advice);
        while (error == EINTR || error == EAGAIN);
        if (error) __atomic_store_n(&all->error, error, __ATOMIC_RELAXED);
    }
    return 0;
}

/* By the caller and threads - 1 others, or as many as can be had. Gives 0 or the errno of one. */
static inline int shm_populate_by(
    uintptr_t address, size_t length, size_t page, int advice, int threads
) {
    uintptr_t first = address & ~(uintptr_t)(SHM_POPULATE_SHARE - 1);
    struct shm_populating all = {first, address, address + length, page, advice, 0};
    pthread_t others[SHM_POPULATE_THREADS];
    int started = 0;
    while (started < threads - 1 && started < SHM_POPULATE_THREADS &&
           !shm_thread_start(&others[started], shm_populate_shares, &all))
        started++;
    shm_populate_shares(&all);
    while (started) pthread_join(others[--started], 0);
    return all.error;
}

#endif
