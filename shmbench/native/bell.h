/* Threads of our own beside the interpreter: start one, sleep until rung, stop. No GIL anywhere. */
#ifndef SHMBENCH_BELL_H
#define SHMBENCH_BELL_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>

struct shm_bell { pthread_mutex_t mutex; pthread_cond_t rung; int stop; };

static inline void shm_bell_hang(struct shm_bell *bell) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&bell->mutex, 0);
    pthread_cond_init(&bell->rung, &attributes);
    pthread_condattr_destroy(&attributes);
    bell->stop = 0;
}

/* Sleeps until a time of CLOCK_MONOTONIC; not 0, at once, when the thread has to stop. */
static inline int shm_bell_sleep(struct shm_bell *bell, int64_t until_ns) {
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    pthread_mutex_lock(&bell->mutex);
    while (!bell->stop && pthread_cond_timedwait(&bell->rung, &bell->mutex, &until) != ETIMEDOUT) {}
    int stop = bell->stop;
    pthread_mutex_unlock(&bell->mutex);
    return stop;
}

static inline void shm_bell_stop(struct shm_bell *bell) {
    pthread_mutex_lock(&bell->mutex);
    bell->stop = 1;
    pthread_cond_signal(&bell->rung);
    pthread_mutex_unlock(&bell->mutex);
}

/* The thread takes no signals: they are the interpreter's. Gives 0 or an errno. */
static inline int shm_thread_start(pthread_t *thread, void *(*body)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, 0, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, 0);
    return error;
}

#endif
