/* The law of faults: pages that were missed go in one by one, what to map ahead comes out.
 *
 * Pure, as that of strides.h, which it asks about strides. What is mapped ahead is touched unseen,
 * so it also needs the law of map-ahead that a kernel would have (after Choi, Kim and Han,
 * HotStorage 2017):
 *
 * - A fault at the end (or the beginning) of what the last ones mapped makes a **run**, forwards or
 *   backwards: a window of SHM_WINDOW pages, twice as many at each such fault. A few pages may be
 *   left out in between: fewer than `least_step` to begin with, a window later on.
 * - A fault where a stream of strides was announced shows that it has come there: the law of
 *   strides is told of the steps before, as if they had been seen.
 * - Any other fault is a stranger. It maps its page only, so that strides can be told, or where the
 *   law of strides has given up, SHM_WINDOW pages around it, as the kernel does. So many strangers
 *   in a row that it is hopeless mean that the kernel would do better by itself.
 */
#ifndef SHMBENCH_FAULTLAW_H
#define SHMBENCH_FAULTLAW_H

#include "strides.h"

enum {
    SHM_STRANGERS = 16, SHM_RUNS = 16, SHM_PLACES = 32, SHM_PIECE = 256,
    SHM_HOPELESS = 64, SHM_PASSED = 1024, SHM_FAULT_OUT = SHM_STREAMS + SHM_PASSED + 1,
};

/* Pages first to behind - 1 were asked for; direction 0: by a stranger. */
struct shm_place { int64_t first, behind, window; int direction; uint64_t used; };

struct shm_faults {
    struct shm_law strides;
    int64_t most_window;
    uint64_t faults, windows;
    int strangers; /* in a row */
    struct shm_place places[SHM_PLACES]; /* strangers, then runs */
    int64_t touches[SHM_PASSED + 1];
};

static void shm_faults_start(
    struct shm_faults *f, int64_t pages, int64_t least_step, int64_t most_ahead, int64_t patience,
    int64_t most_window
) {
    memset(f, 0, sizeof *f);
    shm_law_start(&f->strides, pages, least_step, most_ahead, patience);
    f->most_window = most_window;
}

static int shm_within(const struct shm_place *p, int64_t page) {
    return page >= p->first && page < p->behind;
}

/* 1: the page goes on with it upwards; -1: downwards. */
static int shm_goes_on(const struct shm_place *p, int64_t page, int64_t least_step) {
    int64_t gap = p->direction ? p->window : least_step - 1;
    if (p->direction >= 0 && page >= p->behind && page < p->behind + gap) return 1;
    if (p->direction <= 0 && page < p->first && page >= p->first - gap) return -1;
    return 0;
}

static struct shm_place *shm_oldest(struct shm_place *places, int count) {
    struct shm_place *oldest = places;
    for (int i = 1; i < count; i++)
        if (places[i].used < oldest->used) oldest = &places[i];
    return oldest;
}

/* The window beside a page, cut into pieces that are mapped at once. */
static struct shm_ahead shm_window(const struct shm_place *p, int64_t page) {
    int64_t piece = p->window < SHM_PIECE ? p->window : SHM_PIECE;
    int64_t steps = (p->window + piece - 1) / piece;
    if (p->direction > 0) return (struct shm_ahead){page + 1, piece, steps, piece};
    return (struct shm_ahead){page - piece, -piece, steps, piece};
}

static struct shm_ahead shm_run_on(
    struct shm_faults *f, struct shm_place *p, int64_t page, int direction
) {
    if (!p->direction) {
        struct shm_place *run = shm_oldest(f->places + SHM_STRANGERS, SHM_RUNS);
        *run = *p;
        *p = (struct shm_place){0};
        p = run;
    }
    int64_t window = p->direction ? 2 * p->window : SHM_WINDOW;
    p->window = window < f->most_window ? window : f->most_window;
    p->direction = direction;
    p->used = f->faults;
    p->first = direction > 0 ? page : page - p->window;
    p->behind = direction > 0 ? page + 1 + p->window : page + 1;
    f->windows++;
    f->strangers = 0;
    return shm_window(p, page);
}

/* The pages of a stream up to this one, which it has passed; 0: it does not belong to one. */
static int64_t shm_passed(struct shm_faults *f, int64_t page) {
    for (int i = 0; i < SHM_STREAMS; i++) {
        const struct shm_stream *s = &f->strides.streams[i];
        if (!s->ahead) continue;
        int64_t steps = (page - s->last) / s->step;
        if ((page - s->last) % s->step || steps < 1) continue;
        if (steps > (s->told - s->last) / s->step + 1 || steps > SHM_PASSED) continue;
        for (int64_t k = 0; k < steps; k++)
            f->touches[k] = s->step > 0 ? s->last + (k + 1) * s->step : page - k * s->step;
        return steps;
    }
    return 0;
}

/* The pages around one, as fault-around maps them. */
static int64_t shm_around(struct shm_faults *f, int64_t page) {
    int64_t first = page - page % SHM_WINDOW, count = 0;
    while (count < SHM_WINDOW && first + count < f->strides.pages) {
        f->touches[count] = first + count;
        count++;
    }
    return count;
}

static int64_t shm_new_place(struct shm_faults *f, int64_t page, struct shm_ahead *out) {
    struct shm_place *p = shm_oldest(f->places, SHM_STRANGERS);
    *p = (struct shm_place){page, page + 1, 0, 0, f->faults};
    if (f->strides.read_ahead_off) return 0;
    p->first = page - page % SHM_WINDOW;
    p->behind = p->first + SHM_WINDOW;
    *out = (struct shm_ahead){p->first, SHM_WINDOW, 1, SHM_WINDOW};
    f->windows++;
    return 1;
}

static int shm_hopeless(const struct shm_faults *f) { return f->strangers >= SHM_HOPELESS; }

/* After a while of leaving all to the kernel: half as many strangers are hopeless again. */
static void shm_hope(struct shm_faults *f) { f->strangers = SHM_HOPELESS / 2; }

/* A fault at a page, which gets mapped by itself.
 *
 * out: room for SHM_FAULT_OUT entries; what they name may lie beyond the memory's ends, or be mapped.
 * Returns how many of them were filled.
 */
static int64_t shm_fault(struct shm_faults *f, int64_t page, struct shm_ahead *out) {
    f->faults++;
    for (int i = SHM_PLACES - 1; i >= 0; i--) {
        struct shm_place *p = &f->places[i];
        if (!p->used) continue;
        if (shm_within(p, page)) { /* it is on its way, or was lost */
            int64_t count = p->behind - page;
            if (count > SHM_WINDOW) count = SHM_WINDOW;
            *out = (struct shm_ahead){page, count, 1, count};
            return 1;
        }
        int direction = shm_goes_on(p, page, f->strides.least_step);
        if (direction) { *out = shm_run_on(f, p, page, direction); return 1; }
    }
    int64_t passed = shm_passed(f, page), count = passed;
    if (!passed) {
        f->touches[0] = page;
        count = f->strides.read_ahead_off ? 1 : shm_around(f, page);
    }
    int64_t told = shm_law_step(&f->strides, f->touches, count, out);
    f->strangers = passed || told ? 0 : f->strangers + 1;
    if (!f->strangers) return told;
    return shm_new_place(f, page, out);
}

#endif
