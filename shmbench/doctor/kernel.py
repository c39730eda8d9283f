"""Kernel features, each tried in earnest: whether a kernel, a sandbox or a sysctl lets us.

The system calls go through ctypes, because nothing here is timed. Numbers from 424 on are the same
on all architectures; the older ones stand in a table.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shmbench.doctor.check import Check, missing, ok

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

_IO_URING_SETUP, _PIDFD_OPEN, _PROCESS_MADVISE, _CACHESTAT = 425, 434, 440, 451
# machine -> numbers of userfaultfd(2) and perf_event_open(2)
_OLDER_CALLS = {
    "x86_64": (323, 298),
    "aarch64": (282, 241),
    "riscv64": (282, 241),
    "ppc64le": (364, 319),
    "s390x": (355, 331),
}
_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)
_MADV_POPULATE_READ, _MADV_COLD = 22, 20
_UFFD_USER_MODE_ONLY = 1
_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg of 96 bytes)
_PAGE_IS_PRESENT = 1 << 3
_PERF_TYPE_HARDWARE, _PERF_TYPE_SOFTWARE = 0, 1
_PERF_COUNT_HW_CPU_CYCLES, _PERF_COUNT_SW_CONTEXT_SWITCHES = 0, 3
_PERF_EXCLUDE_KERNEL_AND_HV = 1 << 5 | 1 << 6

# What a kernel that has never heard of a call, a flag or a request answers.
_TOO_OLD = (errno.ENOSYS, errno.ENOTTY, errno.EINVAL)
_SANDBOX = "a sandbox forbids it (docker run --security-opt seccomp=unconfined)"


@dataclass(frozen=True)
class Feature:
    """A feature of the kernel.

    Attributes:
        name: the call's or the feature's.
        since: the first version of Linux that has it.
        probe: tries it and leaves nothing; raises OSError where it does not work.
        cost: what is not measured without it.
        remedy: for a kernel that has it and refuses.
    """

    name: str
    since: str
    probe: Callable[[], None]
    cost: str
    remedy: str


def kernel_checks() -> list[Check]:
    """Try every feature."""
    return [check(feature) for feature in FEATURES]


def check(feature: Feature) -> Check:
    try:
        feature.probe()
    except OSError as error:
        remedy = (
            f"needs Linux {feature.since} or later, and a kernel that is built with it"
            if error.errno in _TOO_OLD
            else feature.remedy
        )
        name = errno.errorcode.get(error.errno or 0, "unknown error")
        return missing(feature.name, f"{name}: {error.strerror}", feature.cost, remedy)
    return ok(feature.name, "works")


def _result(value: int) -> int:
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return value


def _syscall(number: int, *arguments: object) -> int:
    return _result(_LIBC.syscall(ctypes.c_long(number), *arguments))


def _older_call(index: int) -> int:
    try:
        return _OLDER_CALLS[platform.machine()][index]
    except KeyError:
        raise OSError(errno.EOPNOTSUPP, f"not probed on {platform.machine()}") from None


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _memfd() -> None:
    os.close(os.memfd_create("shmbench-probe"))


def _memfd_hugetlb() -> None:
    # Works without a reserved page: those are wanted only by mmap.
    os.close(os.memfd_create("shmbench-probe", os.MFD_CLOEXEC | os.MFD_HUGETLB))


def _process_vm_readv() -> None:
    """A child reads its parent, as ranks read each other: the direction that Yama restricts."""
    message = ctypes.create_string_buffer(b"shmbench")
    remote = _Iovec(ctypes.addressof(message), len(message))
    parent = os.getpid()
    # EINVAL where there is no Yama; 0 takes the permission back.
    _LIBC.prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)
    try:
        child = os.fork()
        if child == 0:
            code = errno.EIO
            try:
                copy = ctypes.create_string_buffer(len(message))
                local = _Iovec(ctypes.addressof(copy), len(copy))
                done = _LIBC.process_vm_readv(
                    parent, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0
                )
                code = 0 if done == len(message) else ctypes.get_errno()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        _LIBC.prctl(_PR_SET_PTRACER, ctypes.c_ulong(0), 0, 0, 0)
    if code:
        raise OSError(code, os.strerror(code))


def _pagemap_scan() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory, Path("/proc/self/pagemap").open("rb") as pagemap:
        memory[0] = 1
        page = ctypes.c_char.from_buffer(memory)
        start = ctypes.addressof(page)
        del page
        found = (ctypes.c_uint64 * 3)()  # struct page_region
        end = start + mmap.PAGESIZE
        size, flags, walk_end, regions_max, pages_max, inverted, any_of = 96, 0, 0, 1, 0, 0, 0
        scan = bytearray(
            struct.pack(
                "12Q",
                *(size, flags, start, end, walk_end, ctypes.addressof(found), regions_max),
                *(pages_max, inverted, _PAGE_IS_PRESENT, any_of, _PAGE_IS_PRESENT),
            )
        )
        if fcntl.ioctl(pagemap, _PAGEMAP_SCAN, scan) != 1:
            raise OSError(errno.EOPNOTSUPP, "a page that is present was not reported")


def _cachestat() -> None:
    descriptor = os.memfd_create("shmbench-probe")
    try:
        span, counts = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
        _syscall(_CACHESTAT, descriptor, ctypes.byref(span), ctypes.byref(counts), 0)
    finally:
        os.close(descriptor)


def _madv_populate() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        memory.madvise(_MADV_POPULATE_READ)


def _process_madvise() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        page = ctypes.c_char.from_buffer(memory)
        span = _Iovec(ctypes.addressof(page), mmap.PAGESIZE)
        del page
        process = os.pidfd_open(os.getpid())
        try:
            _syscall(
                _PROCESS_MADVISE, process, ctypes.byref(span), ctypes.c_size_t(1), _MADV_COLD, 0
            )
        finally:
            os.close(process)


def _userfaultfd() -> None:
    os.close(_syscall(_older_call(0), os.O_CLOEXEC | _UFFD_USER_MODE_ONLY))


def _io_uring() -> None:
    parameters = (ctypes.c_uint32 * 30)()  # struct io_uring_params
    os.close(_syscall(_IO_URING_SETUP, 1, ctypes.byref(parameters)))


def _pressure() -> None:
    Path("/proc/pressure/cpu").read_bytes()


def _perf_event(kind: int, event: int) -> None:
    # struct perf_event_attr in its first version, which all kernels take
    attributes = struct.pack(
        "IIQQQQQIIQ", kind, 64, event, 0, 0, 0, _PERF_EXCLUDE_KERNEL_AND_HV, 0, 0, 0
    )
    myself, any_cpu, no_group = 0, -1, -1
    os.close(_syscall(_older_call(1), attributes, myself, any_cpu, no_group, ctypes.c_ulong(0)))


def _perf_software() -> None:
    _perf_event(_PERF_TYPE_SOFTWARE, _PERF_COUNT_SW_CONTEXT_SWITCHES)


def _perf_hardware() -> None:
    _perf_event(_PERF_TYPE_HARDWARE, _PERF_COUNT_HW_CPU_CYCLES)


_PARANOID = "sysctl kernel.perf_event_paranoid=2 or less, and CAP_PERFMON in containers"

FEATURES = (
    Feature("memfd", "3.17", _memfd, "no memfd regions", _SANDBOX),
    Feature(
        "memfd with huge pages",
        "4.14",
        _memfd_hugetlb,
        "no hugetlb regions",
        "a kernel with CONFIG_HUGETLBFS",
    ),
    Feature(
        "process_vm_readv",
        "3.2",
        _process_vm_readv,
        "no cma channel (one copy, straight from the sender's memory)",
        "sysctl kernel.yama.ptrace_scope=1 or less; docker run --cap-add SYS_PTRACE",
    ),
    Feature(
        "PAGEMAP_SCAN",
        "6.7",
        _pagemap_scan,
        "which pages are present can only be read page by page",
        _SANDBOX,
    ),
    Feature(
        "cachestat",
        "6.5",
        _cachestat,
        "how much of a file is in the page cache is found by mincore, page by page",
        _SANDBOX,
    ),
    Feature(
        "MADV_POPULATE_READ",
        "5.14",
        _madv_populate,
        "pages are prefaulted by touching them; memory that runs out is a signal, not an error",
        _SANDBOX,
    ),
    Feature(
        "process_madvise",
        "5.10",
        _process_madvise,
        "hints take one call a range instead of one for 1024",
        "needs CAP_SYS_NICE on kernels before 6.13, or " + _SANDBOX,
    ),
    Feature(
        "userfaultfd",
        "5.11",
        _userfaultfd,
        "no policy that handles faults in user space",
        _SANDBOX,
    ),
    Feature(
        "io_uring",
        "5.1",
        _io_uring,
        "no limit for cold files: deep queues of reads can't be measured",
        "sysctl kernel.io_uring_disabled=0, or " + _SANDBOX,
    ),
    Feature(
        "pressure stall information",
        "4.20",
        _pressure,
        "pressure by others shows only in context switches and steal",
        "boot with psi=1",
    ),
    Feature(
        "perf: software events",
        "2.6.32",
        _perf_software,
        "what ranks suffer is known from getrusage only",
        _PARANOID,
    ),
    Feature(
        "perf: hardware events",
        "2.6.32",
        _perf_hardware,
        "cycles and cache misses are not counted: a slow figure is harder to explain",
        f"in a virtual machine: a virtual PMU from its host; else {_PARANOID}",
    ),
)
