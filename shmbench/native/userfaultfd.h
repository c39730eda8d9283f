/* Minor faults on shared memory by userfaultfd(2): a page that is in the page cache and not mapped.
 *
 * Each function gives 0 (or what it says), or a negative errno.
 */
#ifndef SHMBENCH_USERFAULTFD_H
#define SHMBENCH_USERFAULTFD_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than the kernel headers of some that run a newer kernel. */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_PAGEFAULT_FLAG_MINOR
#define UFFD_PAGEFAULT_FLAG_MINOR (1 << 2)
#define UFFDIO_REGISTER_MODE_MINOR ((uint64_t)1 << 2)
#define _UFFDIO_CONTINUE 0x07
struct uffdio_continue { struct uffdio_range range; uint64_t mode; int64_t mapped; };
#define UFFDIO_CONTINUE _IOWR(UFFDIO, _UFFDIO_CONTINUE, struct uffdio_continue)
#endif
#ifndef UFFD_FEATURE_MINOR_SHMEM
#define UFFD_FEATURE_MINOR_SHMEM (1 << 10)
#endif

/* A descriptor that does not block. `user_mode_only`: faults within system calls fail by EFAULT
   instead of coming here; else the caller needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd. */
static inline int shm_uffd_open(int user_mode_only) {
    int flags = O_CLOEXEC | O_NONBLOCK | (user_mode_only ? UFFD_USER_MODE_ONLY : 0);
    int fd = (int)syscall(SYS_userfaultfd, flags);
    if (fd >= 0) return fd;
    return errno == EINVAL ? -ENOSYS : -errno; /* a flag that it does not know: before 5.11 */
}

/* ENOSYS: this kernel has no minor faults of shared memory (before 5.14). */
static inline int shm_uffd_begin(int fd) {
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MINOR_SHMEM};
    return ioctl(fd, UFFDIO_API, &api) ? errno == EINVAL ? -ENOSYS : -errno : 0;
}

/* Who waits there tries again. */
static inline void shm_uffd_wake(int fd, uintptr_t address, uint64_t length) {
    struct uffdio_range range = {address, length};
    ioctl(fd, UFFDIO_WAKE, &range);
}

/* Who waits there is served by the kernel. Leaving alone wakes nobody whose fault is a minor one
   (fs/userfaultfd.c), and closing neither, as long as a forked child has the descriptor, too. */
static inline void shm_uffd_leave(int fd, uintptr_t address, uint64_t length) {
    struct uffdio_range range = {address, length};
    ioctl(fd, UFFDIO_UNREGISTER, &range);
    shm_uffd_wake(fd, address, length);
}

/* EINVAL: not shared memory; EACCES: of a file that is open for reading only; EBUSY: another
   userfaultfd has it. Holes are not registered: the kernel fills them as ever. */
static inline int shm_uffd_watch(int fd, uintptr_t address, uint64_t length) {
    struct uffdio_register r = {{address, length}, UFFDIO_REGISTER_MODE_MINOR, 0};
    if (ioctl(fd, UFFDIO_REGISTER, &r)) return errno == EPERM ? -EACCES : -errno;
    /* Only hugetlb has no zero page; its pages are not ours to continue. */
    if (r.ioctls & (uint64_t)1 << _UFFDIO_ZEROPAGE) return 0;
    shm_uffd_leave(fd, address, length);
    return -EINVAL;
}

/* Maps the pages of a range that are in the page cache, and wakes who waits for them. Others are
   passed over, `patience` of them: mapped ones, holes (EFAULT), which the kernel fills, and those
   with any other error, which are left to the kernel from now on. Gives how many it mapped;
   `refused` becomes the errno of the last one that could not be mapped. */
static inline int64_t shm_uffd_continue(
    int fd, uintptr_t address, uint64_t length, uint64_t page, int64_t patience, int *refused
) {
    uintptr_t end = address + length;
    int64_t pages = 0;
    while (address < end) {
        struct uffdio_continue c = {{address, end - address}, 0, 0};
        if (!ioctl(fd, UFFDIO_CONTINUE, &c)) return pages + (end - address) / page;
        if (c.mapped > 0) {
            pages += c.mapped / page;
            address += c.mapped;
        } else if (errno == ENOENT) { /* it isn't registered now: the kernel serves all of it */
            break;
        } else if (errno != EAGAIN) { /* that: the address space was about to change */
            if (errno != EEXIST) {
                *refused = errno;
                if (errno == EFAULT) shm_uffd_wake(fd, address, page);
                else shm_uffd_leave(fd, address, page);
            }
            address += page;
            if (--patience <= 0) break;
        }
    }
    return pages;
}

/* Waits for a fault, a ring of `stop`, or the end of `timeout_ms` (-1: never). Gives -1 when it was
   the ring, or how many faults there are, of which at most 16 are taken. */
static inline int shm_uffd_wait(int fd, int stop, int timeout_ms, uint64_t addresses[16]) {
    struct pollfd either[2] = {{fd, POLLIN, 0}, {stop, POLLIN, 0}};
    struct uffd_msg messages[16];
    if (poll(either, 2, timeout_ms) < 0) return 0;
    if (either[1].revents) return -1;
    ssize_t got = read(fd, messages, sizeof messages);
    int faults = 0;
    for (ssize_t i = 0; i < got / (ssize_t)sizeof *messages; i++)
        if (messages[i].event == UFFD_EVENT_PAGEFAULT)
            addresses[faults++] = messages[i].arg.pagefault.address;
    return faults;
}

#endif
