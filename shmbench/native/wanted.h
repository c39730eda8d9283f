/* What is to be mapped ahead, and is not yet: a bounded ring, of which the oldest make room. */
#ifndef SHMBENCH_WANTED_H
#define SHMBENCH_WANTED_H

#include "strides.h"

enum { SHM_WANTED = 64 };

struct shm_wanted { struct shm_ahead ring[SHM_WANTED]; int first, count; };

static void shm_want(struct shm_wanted *w, struct shm_ahead what) {
    if (w->count == SHM_WANTED) {
        w->first = (w->first + 1) % SHM_WANTED;
        w->count--;
    }
    w->ring[(w->first + w->count++) % SHM_WANTED] = what;
}

/* The oldest; there has to be one. */
static struct shm_ahead shm_next_wanted(struct shm_wanted *w) {
    struct shm_ahead what = w->ring[w->first];
    w->first = (w->first + 1) % SHM_WANTED;
    w->count--;
    return what;
}

/* Whether a window in here, as opposed to a stride, comes to this page. */
static int shm_is_wanted(const struct shm_wanted *w, int64_t page) {
    for (int i = 0; i < w->count; i++) {
        const struct shm_ahead *a = &w->ring[(w->first + i) % SHM_WANTED];
        int64_t last = a->first + (a->steps - 1) * a->step;
        int64_t low = a->first < last ? a->first : last, high = a->first < last ? last : a->first;
        if ((a->step == a->count || -a->step == a->count) && page >= low && page < high + a->count)
            return 1;
    }
    return 0;
}

#endif
