/* A thread that asks the kernel for pages, fed through a bounded queue; it never needs the GIL.

   Everything of `struct shm_helper` is under `mutex`. */
#ifndef SHM_PREFETCH_H
#define SHM_PREFETCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "willneed.h"

#define SHM_QUEUE 2048       /* twice the steps that a strided stream keeps ahead at most */
#define SHM_ERRNOS 134       /* Linux numbers its errors up to 133 */
#define SHM_TOUCH (-1)       /* a page touched by process_vm_readv: no signal, any kernel */
#define SHM_TOUCH_RANGES 256

struct shm_job { uintptr_t address; size_t length; int action; };

struct shm_helper {
    pthread_mutex_t mutex;
    pthread_cond_t work, idle;
    pthread_t thread;
    unsigned first, count;       /* of the queue */
    unsigned cancels;            /* bumped by cancel: a running job stops at its next piece */
    unsigned forks;              /* shm_forks when the thread was started */
    int running, stopping, busy;
    size_t piece;                /* bytes a system call */
    uint64_t calls, bytes, dropped, cancelled;
    uint64_t errors[SHM_ERRNOS];
    struct shm_job queue[SHM_QUEUE]; /* last: it is never cleared */
};

/* Forks of this process's line; in a child it is ahead of every helper that was made before. */
static unsigned shm_forks;
static void shm_forked(void) { shm_forks++; }
static int shm_watch_forks(void) {
    static int watching;
    if (watching) return 0;
    watching = 1;
    return -pthread_atfork(NULL, NULL, shm_forked);
}

static int shm_touch_safely(uintptr_t address, size_t length, size_t page) {
    char bytes[SHM_TOUCH_RANGES];
    struct iovec from[SHM_TOUCH_RANGES];
    while (length) {
        struct iovec to = {bytes, 0};
        size_t n = 0;
        for (; n < SHM_TOUCH_RANGES && length; n++) {
            size_t step = length < page ? length : page;
            from[n].iov_base = (void *)address;
            from[n].iov_len = 1;
            address += step;
            length -= step;
        }
        to.iov_len = n;
        ssize_t got = process_vm_readv(getpid(), &to, 1, from, n, 0);
        if (got < 0) return errno;
        if ((size_t)got < n) return EFAULT;
    }
    return 0;
}

static int shm_ask(uintptr_t address, size_t length, int action, size_t page) {
    if (action == SHM_TOUCH) return shm_touch_safely(address, length, page);
    if (action == MADV_WILLNEED) return shm_willneed(address, length);
    return madvise((void *)address, length, action) ? errno : 0;
}

static void *shm_helper_main(void *argument) {
    struct shm_helper *h = argument;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    pthread_mutex_lock(&h->mutex);
    for (;;) {
        while (!h->count && !h->stopping) {
            h->busy = 0;
            pthread_cond_broadcast(&h->idle);
            pthread_cond_wait(&h->work, &h->mutex);
        }
        if (h->stopping) break;
        struct shm_job job = h->queue[h->first];
        h->first = (h->first + 1) % SHM_QUEUE;
        h->count--;
        h->busy = 1;
        unsigned cancels = h->cancels;
        while (job.length) {
            size_t n = job.length < h->piece ? job.length : h->piece;
            pthread_mutex_unlock(&h->mutex);
            int error = shm_ask(job.address, n, job.action, page);
            pthread_mutex_lock(&h->mutex);
            h->calls++;
            if (error == EINTR || error == EAGAIN) error = 0;
            if (error) {
                h->errors[error < SHM_ERRNOS ? error : 0]++;
                break;
            }
            h->bytes += n;
            job.address += n;
            job.length -= n;
            if (cancels != h->cancels || h->stopping) {
                h->cancelled += job.length;
                break;
            }
        }
    }
    h->busy = 0;
    pthread_cond_broadcast(&h->idle);
    pthread_mutex_unlock(&h->mutex);
    return NULL;
}

static int shm_helper_init(struct shm_helper *h, size_t piece) {
    memset(h, 0, offsetof(struct shm_helper, queue));
    h->piece = piece;
    h->forks = shm_forks;
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->work, NULL);
    pthread_cond_init(&h->idle, NULL);
    return shm_watch_forks();
}

/* In a child of fork the thread is gone and the locks may be held by nobody: begin anew. */
static void shm_helper_after_fork(struct shm_helper *h) {
    if (h->forks == shm_forks) return;
    h->forks = shm_forks;
    h->first = h->count = 0;
    h->running = h->stopping = h->busy = 0;
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->work, NULL);
    pthread_cond_init(&h->idle, NULL);
}

/* With all signals blocked, so that Python's handlers go on running in its own threads. */
static int shm_helper_start(struct shm_helper *h) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&h->thread, NULL, shm_helper_main, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!error) {
        h->running = 1;
        pthread_setname_np(h->thread, "shm-prefetch");
    }
    return -error;
}

/* Jobs at the end of the queue; the oldest make room, since the consumer may be past them. */
static int shm_helper_submit(struct shm_helper *h, const struct shm_job *jobs, size_t count) {
    int status = 0;
    shm_helper_after_fork(h);
    pthread_mutex_lock(&h->mutex);
    if (h->stopping) status = -ESHUTDOWN;
    else if (!h->running) status = shm_helper_start(h);
    if (!status) {
        for (size_t i = 0; i < count; i++) {
            if (h->count == SHM_QUEUE) {
                h->first = (h->first + 1) % SHM_QUEUE;
                h->count--;
                h->dropped++;
            }
            h->queue[(h->first + h->count++) % SHM_QUEUE] = jobs[i];
        }
        pthread_cond_signal(&h->work);
    }
    pthread_mutex_unlock(&h->mutex);
    return status;
}

static void shm_helper_cancel(struct shm_helper *h) {
    shm_helper_after_fork(h);
    pthread_mutex_lock(&h->mutex);
    for (; h->count; h->count--, h->first = (h->first + 1) % SHM_QUEUE)
        h->cancelled += h->queue[h->first].length;
    h->cancels++;
    pthread_mutex_unlock(&h->mutex);
}

static void shm_helper_drain(struct shm_helper *h) {
    shm_helper_after_fork(h);
    pthread_mutex_lock(&h->mutex);
    while (h->running && !h->stopping && (h->count || h->busy))
        pthread_cond_wait(&h->idle, &h->mutex);
    pthread_mutex_unlock(&h->mutex);
}

static void shm_helper_close(struct shm_helper *h) {
    shm_helper_cancel(h);
    pthread_mutex_lock(&h->mutex);
    int join = h->running;
    h->stopping = 1;
    h->running = 0;
    pthread_cond_signal(&h->work);
    pthread_mutex_unlock(&h->mutex);
    if (join) pthread_join(h->thread, NULL);
}
#endif
