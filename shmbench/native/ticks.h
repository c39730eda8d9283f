/* A clock that waits for nothing: to read CLOCK_MONOTONIC waits for all loads before it, which costs
   as much as they do where their bytes are not in the CPU's caches.

   A load that faults is over before the next instruction begins, so that ticks tell how long faults
   take, though not how long bytes do. They are of the CPU's own counter: see `shm_ticks_of`. */
#ifndef SHMBENCH_TICKS_H
#define SHMBENCH_TICKS_H

#include <stdint.h>
#include <time.h>

static inline uint64_t shm_monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t shm_ticks(void) {
#if defined __x86_64__
    return __builtin_ia32_rdtsc();
#elif defined __aarch64__
    uint64_t now;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(now));
    return now;
#else
    return shm_monotonic_ns();
#endif
}

/* About how many ticks so many nanoseconds are: measured from the first call on, which takes 20 us;
   anew where the counter has been set back, as in a virtual machine that was moved. Not for several
   threads at once. */
static inline uint64_t shm_ticks_of(uint64_t ns) {
    static uint64_t first_ns, first_ticks;
    if (!first_ns || shm_ticks() < first_ticks) {
        first_ticks = shm_ticks();
        first_ns = shm_monotonic_ns();
        while (shm_monotonic_ns() - first_ns < 20000) {}
    }
    double ticks = (double)(shm_ticks() - first_ticks);
    return (uint64_t)(ticks / (double)(shm_monotonic_ns() - first_ns) * (double)ns);
}

#endif
