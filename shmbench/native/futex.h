/* futex(2) between processes (no FUTEX_PRIVATE_FLAG), and a barrier on two words. */
#ifndef SHMBENCH_FUTEX_H
#define SHMBENCH_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "atomics.h"

/* 0 when woken or when the word had already changed; a negative errno otherwise. */
static inline int shm_futex_wait(uint32_t *word, uint32_t expected) {
    if (syscall(SYS_futex, word, FUTEX_WAIT, expected, NULL, NULL, 0) == 0) return 0;
    return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

static inline int shm_futex_wake(uint32_t *word, int waiters) {
    long woken = syscall(SYS_futex, word, FUTEX_WAKE, waiters, NULL, NULL, 0);
    return woken < 0 ? -errno : (int)woken;
}

/* words[0] counts arrivals, words[1] is the generation that waiters watch. */
static inline int shm_barrier(uint32_t *words, uint32_t size, uint32_t spins) {
    uint32_t generation = shm_load32(&words[1]);
    if (shm_add32(&words[0], 1) + 1 == size) {
        shm_store32(&words[0], 0);
        shm_store32(&words[1], generation + 1);
        int status = shm_futex_wake(&words[1], INT_MAX);
        return status < 0 ? status : 0;
    }
    for (uint32_t i = 0; i < spins; i++) {
        if (shm_load32(&words[1]) != generation) return 0;
        shm_pause();
    }
    while (shm_load32(&words[1]) == generation) {
        int status = shm_futex_wait(&words[1], generation);
        if (status < 0) return status;
    }
    return 0;
}

#endif
