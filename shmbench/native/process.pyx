# cython: language_level=3, boundscheck=False, wraparound=False
"""This thread's CPU, what it used, and what becomes of it when its parent dies."""

from libc.stdint cimport uint64_t

from typing import NamedTuple

from shmbench.native.endpoint cimport check


cdef extern from *:
    """
    #include <errno.h>
    #include <sched.h>
    #include <stdint.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <time.h>

    /* The set is sized for the CPU asked for: a static cpu_set_t ends at 1024 CPUs. */
    static int shm_pin(int cpu) {
        size_t bytes = CPU_ALLOC_SIZE(cpu + 1);
        cpu_set_t *set = CPU_ALLOC(cpu + 1);
        int status;
        if (set == NULL) return -ENOMEM;
        CPU_ZERO_S(bytes, set);
        CPU_SET_S(cpu, bytes, set);
        status = sched_setaffinity(0, bytes, set) ? -errno : 0;
        CPU_FREE(set);
        return status;
    }

    static int shm_current_cpu(void) {
        int cpu = sched_getcpu();
        return cpu < 0 ? -errno : cpu;
    }

    static int shm_parent_death_signal(int number) {
        return prctl(PR_SET_PDEATHSIG, (unsigned long)number, 0ul, 0ul, 0ul) ? -errno : 0;
    }

    static int shm_thread_usage(struct rusage *usage) {
        return getrusage(RUSAGE_THREAD, usage) ? -errno : 0;
    }

    static int shm_thread_cpu_ns(uint64_t *ns) {
        struct timespec t;
        if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)) return -errno;
        *ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
        return 0;
    }
    """
    struct rusage:
        long ru_minflt
        long ru_majflt
        long ru_nvcsw
        long ru_nivcsw
    int shm_pin(int cpu) nogil
    int shm_current_cpu()
    int shm_parent_death_signal(int number)
    int shm_thread_usage(rusage *usage)
    int shm_thread_cpu_ns(uint64_t *ns)


class ThreadUsage(NamedTuple):
    """What one thread has used since it started."""

    voluntary_switches: int
    involuntary_switches: int
    minor_faults: int
    major_faults: int
    cpu_ns: int


def pin_to_cpu(int cpu):
    """Let the calling thread run on this CPU only (sched_setaffinity(2)).

    Raises:
        ValueError: a negative number.
        OSError: EINVAL where there is no such CPU, it is offline, or a cpuset forbids it.
    """
    if cpu < 0:
        raise ValueError(f"a CPU's number is 0 or more, not {cpu}")
    cdef int status
    with nogil:
        status = shm_pin(cpu)
    check(f"pin to CPU {cpu}", status)


def current_cpu():
    """The CPU on which the calling thread runs now (sched_getcpu(3))."""
    cdef int cpu = shm_current_cpu()
    check("look up the current CPU", cpu)
    return cpu


def set_parent_death_signal(int signal_number):
    """Have the kernel send the caller this signal when its parent dies (prctl(2) PR_SET_PDEATHSIG).

    The "parent" is the thread that forked the caller. A parent that died before this call sends
    nothing: compare os.getppid() with the parent's process id afterwards, and exit where they differ.
    A fork doesn't inherit the setting. 0 takes it back.

    Raises:
        OSError: EINVAL where there is no such signal.
    """
    check(f"set parent death signal {signal_number}", shm_parent_death_signal(signal_number))


def thread_usage():
    """What the calling thread has used since it started.

    Switches and faults are getrusage(2)'s RUSAGE_THREAD. CPU time is CLOCK_THREAD_CPUTIME_ID, which
    is exact; rusage rounds it to microseconds. sched_yield(2) counts as an involuntary switch.

    Returns:
        ThreadUsage: counts, and CPU time in nanoseconds.
    """
    cdef rusage usage
    cdef uint64_t cpu_ns = 0
    check("getrusage", shm_thread_usage(&usage))
    check("read the thread's CPU time", shm_thread_cpu_ns(&cpu_ns))
    return ThreadUsage(
        usage.ru_nvcsw, usage.ru_nivcsw, usage.ru_minflt, usage.ru_majflt, cpu_ns
    )
