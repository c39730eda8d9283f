/* Loads that may trap: one that tells whether a file still reaches to the end of what is mapped, and
   a touch that says when there is nothing to touch.

   The page that holds the last byte of what is mapped is a tripwire. A file that shrinks to below it
   loses this page at once, in every mapping (truncate(2) returns after that), and the next load
   from it is SIGBUS. What this costs, as long as nothing happens, is a load; a look at the file's
   length is a system call.

   The loads are done by an instruction that the handler knows: where it fails, the program goes on
   at that instruction's second exit. A touch fails after a read error, too.

   A SIGBUS from anywhere else goes to the handler that was there before. */
#ifndef SHM_TRIPWIRE_H
#define SHM_TRIPWIRE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <ucontext.h>
#include <unistd.h>

#include "dax.h"
#include "ticks.h"

enum { SHM_TOUCHES_A_LOOK = 4 };

static struct sigaction shm_sigbus_before;

/* int shm_try_loads(at, end, step): loads a byte at `at`, at + step, ... before `end`, one at least;
   0, or -1 when one was SIGBUS. Its first instruction is the load. */
#if defined __x86_64__
__asm__(
    ".pushsection .text\n"
    "shm_try_loads: movzbl (%rdi), %eax\n"
    "  addq %rdx, %rdi\n"
    "  cmpq %rsi, %rdi\n"
    "  jb shm_try_loads\n"
    "  xorl %eax, %eax\n"
    "  ret\n"
    "shm_load_failed: movl $-1, %eax\n"
    "  ret\n"
    ".popsection\n");
#define SHM_PROGRAM_COUNTER(context) ((context)->uc_mcontext.gregs[REG_RIP])
#elif defined __aarch64__
__asm__(
    ".pushsection .text\n"
    "shm_try_loads: ldrb w3, [x0]\n"
    "  add x0, x0, x2\n"
    "  cmp x0, x1\n"
    "  b.lo shm_try_loads\n"
    "  mov w0, #0\n"
    "  ret\n"
    "shm_load_failed: mov w0, #-1\n"
    "  ret\n"
    ".popsection\n");
#define SHM_PROGRAM_COUNTER(context) ((context)->uc_mcontext.pc)
#endif
#ifdef SHM_PROGRAM_COUNTER
__attribute__((visibility("hidden"))) extern int shm_try_loads(uintptr_t at, uintptr_t end,
                                                               size_t step);
__attribute__((visibility("hidden"))) extern int shm_load_failed(void);

static int shm_load_trapped(ucontext_t *context) {
    if ((uintptr_t)SHM_PROGRAM_COUNTER(context) != (uintptr_t)&shm_try_loads) return 0;
    SHM_PROGRAM_COUNTER(context) = (uintptr_t)&shm_load_failed;
    return 1;
}
#else
static int shm_try_loads(uintptr_t at, uintptr_t end, size_t step) { return -1; }
static int shm_load_trapped(ucontext_t *context) { return 0; }
#endif

static inline int shm_try_load(uintptr_t at) { return shm_try_loads(at, at + 1, 1); }

static void shm_on_sigbus(int number, siginfo_t *info, void *context) {
    int raised = info->si_code > 0; /* by the kernel, for an address */
    if (raised && shm_load_trapped(context)) return;
    if (shm_sigbus_before.sa_flags & SA_SIGINFO) {
        shm_sigbus_before.sa_sigaction(number, info, context);
    } else if (shm_sigbus_before.sa_handler != SIG_DFL && shm_sigbus_before.sa_handler != SIG_IGN) {
        shm_sigbus_before.sa_handler(number);
    } else { /* the load is tried again, and ends the process as it would have without us */
        signal(number, SIG_DFL);
        if (!raised) raise(number);
    }
}

/* Whether our handler is the process's; it is installed once, and stands aside for a later one. */
static int shm_loads_work(void) {
#ifdef SHM_PROGRAM_COUNTER
    static int installed;
    struct sigaction now;
    if (installed)
        return !sigaction(SIGBUS, NULL, &now) && (now.sa_flags & SA_SIGINFO) &&
               now.sa_sigaction == shm_on_sigbus;
    memset(&now, 0, sizeof now);
    now.sa_sigaction = shm_on_sigbus;
    now.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    installed = !sigaction(SIGBUS, &now, &shm_sigbus_before);
    return installed;
#else
    return 0;
#endif
}

/* Whether a file that shrinks loses its mapped pages before truncate(2) returns, wherever it was
   called: not where another machine may call it. */
static int shm_is_local(int fd) {
    struct statfs found;
    if (fstatfs(fd, &found)) return 0;
    switch ((uint32_t)found.f_type) {
    case TMPFS_MAGIC: case RAMFS_MAGIC: case EXT4_SUPER_MAGIC: case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC: case F2FS_SUPER_MAGIC: case OVERLAYFS_SUPER_MAGIC:
        return 1;
    }
    return 0;
}

static inline size_t shm_page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

/* Is this page of the file a wire? 1; 0: not now, since it is not in memory, and a load must not wait
   for a device; -1: it can't be one. */
static int shm_set_tripwire(uintptr_t page, int fd, int in_memory) {
    unsigned char there = 0;
    if (!shm_is_local(fd) || !shm_loads_work()) return -1;
    if (!in_memory && !shm_is_dax(fd) &&
        (mincore((void *)page, shm_page_bytes(), &there) || !(there & 1)))
        return 0;
    return shm_try_load(page) ? -1 : 1;
}

/* Reads a byte of each page of an access of `length` bytes, so that they are mapped, and read in
   where they have to be; the same for the accesses that follow it by `step`, `steps` in all, until
   `limit` ticks have passed. How many that took; -1: a page of the first access can't be had.
   `steps` becomes how many accesses were touched. */
static inline int64_t shm_touch(uintptr_t start, size_t length, int64_t step, size_t *steps,
                                uint64_t limit) {
    uint64_t begin = shm_ticks();
    size_t wanted = *steps, page = shm_page_bytes(), done = 0;
    for (; done < wanted; start += (uintptr_t)step) {
        if (shm_try_loads(start & ~(page - 1), start + length, page)) break;
        if (++done % SHM_TOUCHES_A_LOOK == 0 && shm_ticks() - begin > limit) break;
    }
    *steps = done;
    /* Where another CPU's counter is behind, this is very long: the kernel is asked, and no time lost. */
    return done ? (int64_t)((shm_ticks() - begin) & INT64_MAX) : -1;
}

/* Of this thread; `majors`, if not NULL, becomes how many of them waited for a device. */
static inline long shm_faults(long *majors) {
    struct rusage used;
    if (getrusage(RUSAGE_THREAD, &used)) memset(&used, 0, sizeof used);
    if (majors) *majors = used.ru_majflt;
    return used.ru_minflt + used.ru_majflt;
}

static inline int shm_reaches(int fd, uint64_t end) {
    return (uint64_t)lseek(fd, 0, SEEK_END) >= end;
}
#endif
