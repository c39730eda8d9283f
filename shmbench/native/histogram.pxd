# cython: language_level=3
from libc.stdint cimport uint64_t


cdef extern from *:
    """
    enum {
        SHM_SUB_BITS = 7,                     /* 128 linear buckets to each power of two */
        SHM_SUB_BUCKETS = 1 << SHM_SUB_BITS,
        SHM_TOP_BITS = 41,                    /* values from 2^41 ns (2199 s) on share the last bucket */
        SHM_BUCKETS = (SHM_TOP_BITS - SHM_SUB_BITS + 1) * SHM_SUB_BUCKETS
    };

    static inline unsigned shm_bucket(uint64_t ns) {
        unsigned shift;
        if (ns < SHM_SUB_BUCKETS) return (unsigned)ns;
        if (ns >> SHM_TOP_BITS) return SHM_BUCKETS - 1;
        shift = 63u - SHM_SUB_BITS - (unsigned)__builtin_clzll(ns);
        return (shift << SHM_SUB_BITS) + (unsigned)(ns >> shift);
    }
    """
    enum: SHM_SUB_BUCKETS
    enum: SHM_BUCKETS
    unsigned shm_bucket(uint64_t ns) noexcept nogil


cdef class Histogram:
    cdef uint64_t counts[SHM_BUCKETS]
    cdef uint64_t min_ns
    cdef uint64_t max_ns

    cdef inline void c_record(self, uint64_t ns) noexcept nogil:
        """Count one latency: no call, no allocation, one branch on the value's size."""
        self.counts[shm_bucket(ns)] += 1
        if ns < self.min_ns:
            self.min_ns = ns
        if ns > self.max_ns:
            self.max_ns = ns
