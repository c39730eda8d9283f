/* Asking the kernel to read spans of memory ahead, by a thread beside the consumer.
 *
 * To queue a read takes as long as many a consumer works on a page (5 to 20 us on a virtual disk),
 * so it is worth another CPU. A consumer that does nothing but wait is the better thread for it.
 */
#ifndef SHMBENCH_ANNOUNCE_H
#define SHMBENCH_ANNOUNCE_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bell.h"
#include "willneed.h"

enum { SHM_SPANS = 2048, SHM_LOOK_PAGES = 1024 };

struct shm_span { int64_t start, stop; }; /* whole pages */

struct shm_told { int64_t asked, bytes, in_memory_since; int refused; };

struct shm_announcer {
    struct shm_bell bell;
    pthread_t thread;
    pid_t owner; /* the process that has the thread; 0: none */
    int look;
    int64_t head, tail; /* spans[head % SHM_SPANS] is the next one to announce */
    struct shm_span spans[SHM_SPANS];
    struct shm_told told;
};

static inline int64_t shm_page_bytes(void) { return sysconf(_SC_PAGESIZE); }

/* Whether mincore(2) finds all of it. What it can't say counts as there: nobody waits for it. */
static inline int shm_in_memory(struct shm_span span, int64_t page) {
    unsigned char pages[SHM_LOOK_PAGES];
    while (span.start < span.stop) {
        int64_t count = (span.stop - span.start) / page;
        if (count > SHM_LOOK_PAGES) count = SHM_LOOK_PAGES;
        if (mincore((void *)span.start, count * page, pages)) return 1;
        for (int64_t i = 0; i < count; i++)
            if (!(pages[i] & 1)) return 0;
        span.start += count * page;
    }
    return 1;
}

static inline void shm_announce_span(struct shm_announcer *a, struct shm_span span) {
    if (a->look && shm_in_memory(span, shm_page_bytes())) {
        __atomic_fetch_add(&a->told.in_memory_since, span.stop - span.start, __ATOMIC_RELAXED);
        return;
    }
    __atomic_store_n(&a->told.in_memory_since, 0, __ATOMIC_RELAXED);
    a->told.asked++;
    a->told.bytes += span.stop - span.start;
    int error = shm_willneed(span.start, span.stop - span.start);
    if (error) a->told.refused = error;
}

static inline void *shm_announcer_run(void *argument) {
    struct shm_announcer *a = argument;
    pthread_mutex_lock(&a->bell.mutex);
    for (;;) {
        while (a->head == a->tail && !a->bell.stop) pthread_cond_wait(&a->bell.rung, &a->bell.mutex);
        if (a->bell.stop) break;
        struct shm_span span = a->spans[a->head % SHM_SPANS];
        a->head++;
        pthread_mutex_unlock(&a->bell.mutex);
        shm_announce_span(a, span);
        pthread_mutex_lock(&a->bell.mutex);
    }
    pthread_mutex_unlock(&a->bell.mutex);
    return 0;
}

static inline int shm_by_start(const void *a, const void *b) {
    int64_t x = ((const struct shm_span *)a)->start, y = ((const struct shm_span *)b)->start;
    return x < y ? -1 : x > y;
}

/* Sorts spans and makes one of those that overlap or touch; gives how many are left. */
static inline int64_t shm_merge(struct shm_span *spans, int64_t count) {
    int64_t merged = 0;
    qsort(spans, count, sizeof *spans, shm_by_start);
    for (int64_t i = 0; i < count; i++) {
        struct shm_span *last = &spans[merged - 1];
        if (!merged || spans[i].start > last->stop) spans[merged++] = spans[i];
        else if (spans[i].stop > last->stop) last->stop = spans[i].stop;
    }
    return merged;
}

/* Without a thread (none could be started, or this is a forked child), the caller announces after
   all; and it announces what the queue does not hold. */
static inline void shm_announce(
    struct shm_announcer *a, const struct shm_span *spans, int64_t count, int beside
) {
    int64_t i = 0;
    if (beside && a->owner && a->owner == getpid()) {
        pthread_mutex_lock(&a->bell.mutex);
        while (i < count && a->tail - a->head < SHM_SPANS) a->spans[a->tail++ % SHM_SPANS] = spans[i++];
        pthread_cond_signal(&a->bell.rung);
        pthread_mutex_unlock(&a->bell.mutex);
    }
    for (; i < count; i++) shm_announce_span(a, spans[i]);
}

static inline void shm_announcer_start(struct shm_announcer *a) {
    shm_bell_hang(&a->bell);
    if (!shm_thread_start(&a->thread, shm_announcer_run, a)) a->owner = getpid();
}

static inline void shm_announcer_stop(struct shm_announcer *a) {
    if (a->owner && a->owner == getpid()) {
        shm_bell_stop(&a->bell);
        pthread_join(a->thread, 0);
    }
    a->owner = 0;
    a->head = a->tail;
}

#endif
