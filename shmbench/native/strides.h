/* The law of transparent watching: pages that became mapped go in, what to read ahead comes out.
 *
 * It sees sets of pages, a poll's worth each, and never a clock, a mapping or a fault.
 *
 * - Neighbouring pages are one unit. A unit that grows beyond SHM_MOST_UNIT pages is a sequential
 *   or a reverse scan, or pages that were in memory anyway: the kernel's own read-ahead is good at
 *   those, so read-ahead goes back on and nothing is done.
 * - Four units at equal distances (three equal steps) of at least `least_step` pages are a stream.
 *   It is read ahead by 16 steps, twice as many each time it advances, up to `most_ahead`.
 *   A few streams are followed at once; one that leaves the memory, or has not advanced for
 *   SHM_STALE polls, ends.
 * - Read-ahead has two states. Off (MADV_RANDOM), each touch of a cold page maps just that page, so
 *   that steps can be told exactly, and a stream costs no superfluous I/O; but whatever is no
 *   stream suffers. So it is off at first and while streams advance, until `patience` touches
 *   were explained by no stream. On, a touch maps a whole window: steps are told to a window only,
 *   and steps that look equal turn read-ahead off for another look. A look in vain doubles the
 *   number of polls until the next one is allowed.
 */
#ifndef SHM_STRIDES_H
#define SHM_STRIDES_H

#include <stdint.h>
#include <string.h>

enum {
    SHM_WINDOW = 16, SHM_MOST_UNIT = 7, SHM_UNITS = 32, SHM_STREAMS = 8, SHM_FIRST_AHEAD = 16,
    SHM_FIRST_BACKOFF = 64, SHM_MOST_BACKOFF = 1 << 16, SHM_STALE = 1000,
};

struct shm_unit { int64_t first, count; uint64_t poll; };

struct shm_stream {
    int64_t last, step, count; /* the last unit's first page; signed; pages a unit */
    int64_t told;              /* the first page of the last unit that was announced */
    int64_t ahead;             /* steps; 0: not in use */
    uint64_t advanced;         /* the poll in which it last advanced */
};

struct shm_law {
    int64_t pages, least_step, most_ahead, patience;
    int read_ahead_off;
    int64_t patience_left;
    uint64_t poll, backoff, not_before;
    uint64_t recognised, explained, unexplained;
    struct shm_unit units[SHM_UNITS]; /* a ring of those that no stream explains */
    unsigned newest, known;
    struct shm_stream streams[SHM_STREAMS];
};

/* Announce `steps` units of `count` pages, the first at `first`, the others `step` apart. */
struct shm_ahead { int64_t first, step, steps, count; };

static void shm_law_look(struct shm_law *law) {
    law->read_ahead_off = 1;
    law->patience_left = law->patience;
    law->known = 0;
}

static void shm_law_start(
    struct shm_law *law, int64_t pages, int64_t least_step, int64_t most_ahead, int64_t patience
) {
    memset(law, 0, sizeof *law);
    law->pages = pages;
    law->least_step = least_step;
    law->most_ahead = most_ahead;
    law->patience = patience;
    law->backoff = SHM_FIRST_BACKOFF;
    shm_law_look(law);
}

/* Nothing has happened for long: whatever comes next finds the kernel's read-ahead on. */
static void shm_law_rest(struct shm_law *law) { law->read_ahead_off = 0; law->known = 0; }

static void shm_law_give_up(struct shm_law *law) {
    shm_law_rest(law);
    law->not_before = law->poll + law->backoff;
    if (law->backoff < SHM_MOST_BACKOFF) law->backoff *= 2;
}

static int shm_inside(const struct shm_law *law, int64_t page) { return page >= 0 && page < law->pages; }

/* The index of a page in an ascending array, or -1. Pages that are explained are negated there. */
static int64_t shm_find(const int64_t *pages, int64_t count, int64_t page) {
    int64_t low = 0, high = count;
    while (low < high) {
        int64_t middle = (low + high) / 2, there = pages[middle];
        if ((there < 0 ? ~there : there) < page) low = middle + 1; else high = middle;
    }
    return low < count && pages[low] == page ? low : -1;
}

static void shm_explain(int64_t *pages, int64_t count, int64_t first, int64_t length) {
    int64_t at = shm_find(pages, count, first);
    for (int64_t i = 0; at >= 0 && i < length && at + i < count && pages[at + i] == first + i; i++)
        pages[at + i] = ~pages[at + i];
}

/* What the stream should have been announced by now and was not. */
static int shm_announce(struct shm_law *law, struct shm_stream *s, struct shm_ahead *out) {
    int64_t told = (s->told - s->last) / s->step;
    if (told < 0) { told = 0; s->told = s->last; }
    if (told > s->ahead - s->ahead / 4) return 0;
    int64_t steps = 0;
    while (told + steps < s->ahead && shm_inside(law, s->told + (steps + 1) * s->step)) steps++;
    if (!steps) return 0;
    *out = (struct shm_ahead){s->told + s->step, s->step, steps, s->count};
    s->told += steps * s->step;
    return 1;
}

/* Takes what a stream touched in this poll out of `pages`; gives how many steps it made. */
static int64_t shm_follow(
    struct shm_law *law, struct shm_stream *s, int64_t *pages, int64_t count
) {
    int64_t steps = 0;
    while (shm_find(pages, count, s->last + s->step) >= 0) {
        s->last += s->step;
        shm_explain(pages, count, s->last, s->count);
        steps++;
    }
    /* The rest of a unit of which the beginning was seen in an earlier poll. */
    if (s->count < SHM_MOST_UNIT && shm_find(pages, count, s->last + s->count) >= 0) {
        shm_explain(pages, count, s->last + s->count, 1);
        s->count++;
    }
    law->explained += steps;
    return steps;
}

static int shm_advance(
    struct shm_law *law, struct shm_stream *s, int64_t *pages, int64_t count, struct shm_ahead *out
) {
    int64_t steps = shm_follow(law, s, pages, count);
    if (!steps) return 0;
    s->advanced = law->poll;
    s->ahead = 2 * s->ahead < law->most_ahead ? 2 * s->ahead : law->most_ahead;
    law->patience_left += steps;
    if (law->patience_left > law->patience) law->patience_left = law->patience;
    if (!law->read_ahead_off && law->poll >= law->not_before) shm_law_look(law);
    if (s->ahead == law->most_ahead) law->backoff = SHM_FIRST_BACKOFF;
    int told = shm_announce(law, s, out);
    if (!shm_inside(law, s->last + s->step)) s->ahead = 0;
    return told;
}

/* The unit near a place: the newest one, if it is no farther than `slack`. */
static const struct shm_unit *shm_unit_at(const struct shm_law *law, int64_t place, int64_t slack) {
    for (unsigned i = 0; i < law->known; i++) {
        const struct shm_unit *u = &law->units[(law->newest + SHM_UNITS - i) % SHM_UNITS];
        if (u->first >= place - slack && u->first <= place + slack) return u;
    }
    return 0;
}

/* With read-ahead off, so many pages at once were in memory before: which was touched is unknown. */
static int shm_vague(const struct shm_law *law, const struct shm_unit *u) {
    return law->read_ahead_off && u->count > SHM_MOST_UNIT;
}

static struct shm_stream *shm_new_stream(
    struct shm_law *law, int64_t last, int64_t step, int64_t count
) {
    struct shm_stream *s = &law->streams[0];
    for (int i = 0; i < SHM_STREAMS; i++) {
        struct shm_stream *other = &law->streams[i];
        if (!other->ahead) { s = other; break; }
        if (other->advanced < s->advanced) s = other;
    }
    int64_t ahead = SHM_FIRST_AHEAD < law->most_ahead ? SHM_FIRST_AHEAD : law->most_ahead;
    *s = (struct shm_stream){last, step, count, last, ahead, law->poll};
    return s;
}

/* Three units before the newest one at equal steps, the smallest that there are. */
static int shm_equal_steps(const struct shm_law *law, const struct shm_unit *before[3]) {
    const struct shm_unit *u = &law->units[law->newest];
    int64_t slack = law->read_ahead_off ? 0 : SHM_WINDOW, least = slack ? 2 * SHM_WINDOW : 1;
    int64_t smallest = INT64_MAX;
    if (slack && law->least_step > least) least = law->least_step;
    for (unsigned i = 1; i < law->known; i++) {
        const struct shm_unit *v = &law->units[(law->newest + SHM_UNITS - i) % SHM_UNITS], *w, *x;
        int64_t step = u->first - v->first, size = step < 0 ? -step : step;
        if (size < least || size >= smallest || shm_vague(law, v)) continue;
        if (!(w = shm_unit_at(law, v->first - step, slack)) || shm_vague(law, w)) continue;
        if (!(x = shm_unit_at(law, w->first - step, slack)) || shm_vague(law, x)) continue;
        smallest = size;
        before[0] = v, before[1] = w, before[2] = x;
    }
    return smallest < INT64_MAX;
}

/* Whether the newest unit is the fourth at equal steps; makes a stream, or asks for another look. */
static int shm_recognise(
    struct shm_law *law, int64_t *pages, int64_t page_count, struct shm_ahead *out
) {
    const struct shm_unit *u = &law->units[law->newest], *before[3];
    if (!shm_equal_steps(law, before)) return 0;
    if (!law->read_ahead_off) {
        if (law->poll >= law->not_before) shm_law_look(law);
        return 0;
    }
    int64_t step = u->first - before[0]->first, count = before[0]->count;
    if ((step < 0 ? -step : step) < law->least_step) { shm_law_give_up(law); return 0; }
    law->recognised++;
    law->patience_left = law->patience;
    struct shm_stream *s = shm_new_stream(law, u->first, step, count);
    if (before[2]->poll == u->poll) { /* all in one poll: the next one shows the direction */
        shm_follow(law, s, pages, page_count);
        shm_new_stream(law, before[2]->first, -step, count);
        return 0;
    }
    /* This poll may have seen its next steps too. */
    return shm_advance(law, s, pages, page_count, out) || shm_announce(law, s, out);
}

/* A run of pages that no stream explains, at pages[at] to pages[behind - 1]. */
static int shm_stranger(
    struct shm_law *law, int64_t *pages, int64_t page_count, int64_t at, int64_t behind,
    struct shm_ahead *out
) {
    int64_t first = pages[at], count = behind - at;
    law->unexplained++;
    for (unsigned i = 0; i < law->known; i++) {
        struct shm_unit *u = &law->units[(law->newest + SHM_UNITS - i) % SHM_UNITS];
        if (first == u->first + u->count) u->count += count;
        else if (first + count == u->first) { u->first = first; u->count += count; }
        else continue;
        if (u->count > SHM_MOST_UNIT && law->read_ahead_off) shm_law_give_up(law);
        return 0;
    }
    law->newest = (law->newest + 1) % SHM_UNITS;
    if (law->known < SHM_UNITS) law->known++;
    law->units[law->newest] = (struct shm_unit){first, count, law->poll};
    if (shm_vague(law, &law->units[law->newest])) return 0;
    int told = shm_recognise(law, pages, page_count, out);
    if (law->read_ahead_off && !told && --law->patience_left < 0) shm_law_give_up(law);
    return told;
}

/* One poll.
 *
 * pages: ascending, those that became mapped since the last poll; overwritten.
 * out: room for SHM_STREAMS + count entries.
 * Returns how many of them were filled.
 */
static int64_t shm_law_step(
    struct shm_law *law, int64_t *pages, int64_t count, struct shm_ahead *out
) {
    int64_t told = 0;
    law->poll++;
    for (int i = 0; i < SHM_STREAMS; i++) {
        struct shm_stream *s = &law->streams[i];
        if (s->ahead) told += shm_advance(law, s, pages, count, out + told);
        if (law->poll - s->advanced > SHM_STALE) s->ahead = 0;
    }
    for (int64_t i = 0, behind; i < count; i = behind) {
        behind = i + 1;
        if (pages[i] < 0) continue;
        while (behind < count && pages[behind] == pages[i] + behind - i) behind++;
        told += shm_stranger(law, pages, count, i, behind, out + told);
    }
    return told;
}

#endif
