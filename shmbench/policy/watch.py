"""Transparent watching: acts ahead of accesses that pass through no call of ours.

Plain NumPy indexing of a mapped array touches pages. A native thread sees which, recognises strided
streams, and acts on the pages to come. Where it looks is the *source*:

| source | sees | acts by |
|---|---|---|
| scan | pages that became mapped, by PAGEMAP_SCAN (Linux 6.7) | MADV_WILLNEED of strides |
| pagemap | the same, by reading /proc/self/pagemap | the same |
| userfaultfd | faults on shared memory, as they happen | mapping pages of runs and strides |

The first two look at page tables a few thousand times a second at most, cost the program nothing,
and leave sequential and reverse scans to the kernel's own read-ahead. The third stands between the
program and its pages: see `Watcher`. The laws are in native/strides.h and native/faultlaw.h;
`native.detector` has them in the open.
"""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Literal, get_args

from shmbench.errors import Unavailable, UsageError
from shmbench.native import memory as kernel
from shmbench.native.faults import FaultThread
from shmbench.native.watch import Thread
from shmbench.native.watched import Watched

_WHY_NOT = {
    errno.ENOSYS: (
        "this kernel handles no minor faults of shared memory",
        "it takes Linux 5.14 and CONFIG_USERFAULTFD; or use watch=True",
    ),
    errno.EPERM: (
        "userfaultfd(2) is refused, as a container's seccomp filter does",
        "allow the system call there; or use watch=True",
    ),
    errno.EINVAL: (
        "this is no shared memory of small pages",
        "use it for tmpfs files, memfd or shared anonymous memory, and watch=True for other files",
    ),
    errno.EACCES: (
        "the mapped file is open for reading only",
        'open it with mode "r+"',
    ),
    errno.EBUSY: (
        "another userfaultfd handles faults of this memory",
        "close the Mapping that watches it already",
    ),
}

WatchSource = Literal["scan", "pagemap", "userfaultfd"]
Watch = bool | WatchSource


def source_of(watch: Watch) -> Literal["best"] | WatchSource | None:
    """What a user's `watch` means: "best" is scan, or pagemap where the kernel has no scan.

    Raises:
        UsageError: no source has that name.
    """
    if isinstance(watch, bool):
        return "best" if watch else None
    if watch in get_args(WatchSource):
        return watch
    names = ", ".join(get_args(WatchSource))
    raise UsageError(f"watch={watch!r} is no source", f"use True, False, or one of: {names}")


class Watcher:
    """Watches a mapping from `start` to `stop`; or as a context manager.

    Stop it before the mapping goes. If something else is mapped there before that, it gets the
    hints that were meant for the old mapping: nothing breaks. After a fork only the parent's
    mapping is watched; in the child `stop` and `stats` still work.

    With the source "userfaultfd", whoever touches a page that is in the page cache but not mapped
    waits until a thread of ours has mapped it, and with it a window that doubles up to 4 MiB while
    access is sequential, or up to `most_ahead` steps of a stride. Holes and swapped pages come as
    ever. The price: a fault takes about 8 us, not 0.5, and the kernel's fault-around is off. So it
    pays where the program works on each page and another CPU is free, or where strides touch
    one page in many; where there is no pattern, all is left to the kernel for up to a second at a
    time. It is for tmpfs, memfd and shared anonymous memory. docs/policy-watch.md has figures.

    Beware of system calls on such memory, those of others (process_vm_readv) included: where
    `system_calls_wait` is False, one that meets a page which is not mapped yet, such as
    `os.write(fd, array)` or `file.readinto(array)`, fails by EFAULT or transfers less. That is an
    ordinary user's lot, unless vm.unprivileged_userfaultfd is 1. The kernel leaves no remedy
    but to map the pages before, by touching them or by `Mapping.populate`.

    Args:
        address: of the mapping's first page.
        length: in bytes.
        source: where it looks.
        least_interval_s: between two looks while a stream runs.
        most_interval_s: between two looks while nothing happens.
        least_step: strides of fewer pages are left to the kernel's read-ahead, which reads
            the pages between as fast. With "userfaultfd" they count as sequential.
        most_ahead: how far to read ahead, in steps.
        patience: how many touches without a pattern it takes to leave all to the kernel; with
            "userfaultfd", to map 16 pages around each fault, as the kernel does.
        advice: MADV_* for the mapping while its read-ahead is on.

    Raises:
        ValueError: `address` is not a page's, or a limit is out of range.
    """

    def __init__(
        self,
        address: int,
        length: int,
        *,
        source: Literal["best"] | WatchSource = "best",
        least_interval_s: float = 50e-6,
        most_interval_s: float = 20e-3,
        least_step: int = 8,
        most_ahead: int = 512,
        patience: int = 12,
        advice: int = kernel.MADV_NORMAL,
    ) -> None:
        self.source = source
        self.system_calls_wait = True
        self._thread: Thread | FaultThread
        if source == "userfaultfd":
            self._thread = FaultThread(
                address, length, least_step=least_step, most_ahead=most_ahead, patience=patience
            )
        else:
            self._thread = Thread(
                address,
                length,
                least_ns=round(least_interval_s * 1e9),
                most_ns=round(most_interval_s * 1e9),
                advice=advice,
                least_step=least_step,
                most_ahead=most_ahead,
                patience=patience,
            )

    @property
    def running(self) -> bool:
        """Whether it watches, in this process."""
        return self._thread.running

    @property
    def userfaultfd(self) -> int:
        """The descriptor that handles the mapping's faults; -1: none does."""
        return self._thread.descriptor if isinstance(self._thread, FaultThread) else -1

    def start(self) -> None:
        """Start watching. What is mapped already counts as touched long ago.

        Raises:
            Unavailable: the source can't watch this memory, with the reason and the remedy.
            OSError: /proc/self/pagemap can't be opened, or no thread can be started.
            RuntimeError: it watches already.
        """
        if isinstance(self._thread, FaultThread):
            self._start_handling(self._thread)
            return
        self._thread.start(scan=self.source != "pagemap")
        if self.source == "scan" and not self._thread.scanning:
            self._thread.stop()
            raise Unavailable(
                "watch='scan': this kernel has no PAGEMAP_SCAN",
                "Linux 6.7 has it; or use watch='pagemap'",
            )

    def _start_handling(self, thread: FaultThread) -> None:
        # Faults within system calls are for the privileged, who are better off with them.
        for user_mode_only in (False, True):
            self.system_calls_wait = not user_mode_only
            try:
                thread.start(user_mode_only=user_mode_only)
                return
            except OSError as error:
                if error.errno != errno.EPERM or user_mode_only:
                    raise _why_not(error) from error

    def stop(self) -> None:
        """Stop watching and leave the mapping with the advice it had; idempotent."""
        self._thread.stop()

    def stats(self) -> Watched:
        """What it has seen and done so far."""
        return self._thread.stats()

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _why_not(error: OSError) -> Exception:
    """What a user can do about a userfaultfd that doesn't start."""
    if error.errno not in _WHY_NOT:
        return error
    why, remedy = _WHY_NOT[error.errno]
    return Unavailable(f"watch='userfaultfd': {why}", remedy)
