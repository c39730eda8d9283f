# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "atomics.h" nogil:
    uint64_t shm_load64(const uint64_t *p)
    uint32_t shm_load32(const uint32_t *p)
    void shm_store64(uint64_t *p, uint64_t v)
    void shm_store32(uint32_t *p, uint32_t v)
    uint64_t shm_add64(uint64_t *p, uint64_t v)
    uint32_t shm_add32(uint32_t *p, uint32_t v)
    uint32_t shm_swap32(uint32_t *p, uint32_t v)
    bint shm_cas32(uint32_t *p, uint32_t expected, uint32_t v)
    void shm_fence()
    void shm_pause()
    uint64_t shm_now_ns()
