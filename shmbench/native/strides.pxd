"""The law of transparent watching, see strides.h."""

from libc.stdint cimport int64_t, uint64_t

cdef extern from "strides.h" nogil:
    enum:
        SHM_STREAMS
    struct shm_stream:
        int64_t last, step, count, ahead
    struct shm_law:
        int64_t pages
        int read_ahead_off
        uint64_t recognised, explained, unexplained
        shm_stream *streams
    struct shm_ahead:
        int64_t first, step, steps, count
    void shm_law_start(
        shm_law *law, int64_t pages, int64_t least_step, int64_t most_ahead, int64_t patience
    )
    void shm_law_rest(shm_law *law)
    int64_t shm_law_step(shm_law *law, int64_t *pages, int64_t count, shm_ahead *out)
