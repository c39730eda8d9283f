"""Threads of our own beside the interpreter, see bell.h."""

from libc.stdint cimport int64_t

cdef extern from "bell.h" nogil:
    ctypedef struct pthread_t:
        pass
    struct shm_bell:
        pass
    void shm_bell_hang(shm_bell *bell)
    int shm_bell_sleep(shm_bell *bell, int64_t until_ns)
    void shm_bell_stop(shm_bell *bell)
    int shm_thread_start(pthread_t *thread, void *(*body)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **result)
