# cython: language_level=3, boundscheck=False, wraparound=False
"""Timed loops over the system calls around a mapping: map, unmap, protect, flush, fork.

Each releases the GIL, reads the clock twice, and gives the nanoseconds between.
"""

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from shmbench.native.atomics cimport shm_now_ns
from shmbench.native.endpoint cimport check

cdef extern from *:
    """
    #define _GNU_SOURCE
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/wait.h>
    #include <unistd.h>

    static uint64_t shm_touch(volatile unsigned char *p, size_t length, size_t step, int writes) {
        uint64_t sum = 0;
        for (size_t i = 0; i < length; i += step) {
            if (writes) p[i] = 1;
            else sum += p[i];
        }
        return sum;
    }
    /* What the child of a fork does: nothing, so that the copying of page tables is what counts. */
    static int shm_fork_once(void) {
        int status;
        pid_t child = fork();
        if (child == 0) _exit(0);
        if (child < 0 || waitpid(child, &status, 0) < 0) return -errno;
        return 0;
    }
    """
    enum:
        O_RDONLY
        O_CLOEXEC
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_POPULATE
        MS_SYNC
        MS_ASYNC
    struct stat:
        int64_t st_size
    void *MAP_FAILED
    int c_open "open"(const char *path, int flags) nogil
    int c_close "close"(int fd) nogil
    int c_fstat "fstat"(int fd, stat *found) nogil
    int c_fdatasync "fdatasync"(int fd) nogil
    void *c_mmap "mmap"(void *at, size_t length, int prot, int flags, int fd, int64_t from_) nogil
    int c_munmap "munmap"(void *address, size_t length) nogil
    int c_mprotect "mprotect"(void *address, size_t length, int prot) nogil
    int c_msync "msync"(void *address, size_t length, int flags) nogil
    uint64_t shm_touch(unsigned char *p, size_t length, size_t step, int writes) nogil
    int shm_fork_once() nogil


def map_and_unmap(
    int fd, size_t length, int flags, bint writes, size_t step, uint64_t iterations
) -> int:
    """mmap, touch one byte in every `step`, munmap: the nanoseconds of so many.

    Args:
        fd: what to map; -1 with MAP_ANONYMOUS.
        flags: MAP_SHARED or MAP_PRIVATE, with MAP_POPULATE, MAP_HUGETLB ...

    Raises:
        OSError: the kernel refuses.
    """
    cdef uint64_t i, start
    cdef void *mapped
    cdef int error = 0
    if step == 0:
        raise ValueError("the step is 0")
    with nogil:
        start = shm_now_ns()
        for i in range(iterations):
            mapped = c_mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0)
            if mapped == MAP_FAILED:
                error = errno
                break
            shm_touch(<unsigned char *>mapped, length, step, writes)
            c_munmap(mapped, length)
        start = shm_now_ns() - start
    check(f"mmap of {length} bytes", -error)
    return start


def reopen(bytes path not None, size_t length, size_t step, uint64_t iterations) -> tuple:
    """open, fstat, mmap, read one byte in every `step` of `length`, munmap, close.

    Returns:
        The nanoseconds of so many, and the sum of all the bytes that were read.

    Raises:
        OSError: the kernel refuses.
    """
    cdef const char *name = path
    cdef uint64_t i, start, total = 0
    cdef stat found
    cdef void *mapped
    cdef int fd, error = 0
    if step == 0:
        raise ValueError("the step is 0")
    with nogil:
        start = shm_now_ns()
        for i in range(iterations):
            fd = c_open(name, O_RDONLY | O_CLOEXEC)
            if fd < 0 or c_fstat(fd, &found):
                error = errno
                break
            mapped = c_mmap(NULL, found.st_size, PROT_READ, MAP_SHARED, fd, 0)
            if mapped == MAP_FAILED:
                error = errno
                break
            total += shm_touch(<unsigned char *>mapped, length, step, 0)
            c_munmap(mapped, found.st_size)
            c_close(fd)
        start = shm_now_ns() - start
    check(path.decode("utf-8", "replace"), -error)
    return start, total


def fork_and_wait(uint64_t iterations) -> int:
    """fork, and wait for a child that ends at once: the nanoseconds of so many. Raises OSError."""
    cdef uint64_t i, start
    cdef int status = 0
    with nogil:
        start = shm_now_ns()
        for i in range(iterations):
            status = shm_fork_once()
            if status:
                break
        start = shm_now_ns() - start
    check("fork", status)
    return start


def protect_and_write(uintptr_t address, size_t length, size_t step, uint64_t iterations) -> int:
    """mprotect read-only, mprotect writable, write one byte in every `step`: so many times.

    The first must reach every CPU on which the process runs: none may go on writing.

    Raises:
        OSError: the kernel refuses.
    """
    cdef uint64_t i, start
    cdef int error = 0
    with nogil:
        start = shm_now_ns()
        for i in range(iterations):
            if c_mprotect(<void *>address, length, PROT_READ) or c_mprotect(
                <void *>address, length, PROT_READ | PROT_WRITE
            ):
                error = errno
                break
            shm_touch(<unsigned char *>address, length, step, 1)
        start = shm_now_ns() - start
    check("mprotect", -error)
    return start


def flush(uintptr_t address, size_t length, int fd, str how not None) -> int:
    """Flush a mapping's dirty pages: the nanoseconds.

    Args:
        how: "msync_sync", "msync_async" (msync(2) with MS_SYNC or MS_ASYNC) or "fdatasync".

    Raises:
        OSError: the kernel refuses, or the device failed.
    """
    cdef uint64_t start
    cdef int status, error, kind = ("msync_sync", "msync_async", "fdatasync").index(how)
    with nogil:
        start = shm_now_ns()
        if kind == 2:
            status = c_fdatasync(fd)
        else:
            status = c_msync(<void *>address, length, MS_ASYNC if kind else MS_SYNC)
        error = errno
        start = shm_now_ns() - start
    if status:
        check(how, -error)
    return start
