"""Transparent watching: reads ahead for accesses that pass through no call of ours.

Plain NumPy indexing of a mapped array touches pages, and a page that is touched becomes mapped.
A native thread looks at the page map for such pages, recognises strided streams, and asks the
kernel to read the pages to come. Sequential and reverse scans, and whatever has no pattern, are
left to the kernel's own read-ahead. The law is in native/strides.h, and `native.watch.Detector`
is it in the open.
"""

from __future__ import annotations

from types import TracebackType

from shmbench.native import memory as kernel
from shmbench.native.watch import Thread, Watched


class Watcher:
    """Watches a mapping from `start` to `stop`; or as a context manager.

    Stop it before the mapping goes. If something else is mapped there before that, it gets the
    hints that were meant for the old mapping: nothing breaks. After a fork only the parent's
    mapping is watched; in the child `stop` and `stats` still work.

    Args:
        address: of the mapping's first page.
        length: in bytes.
        least_interval_s: between two looks while a stream runs.
        most_interval_s: between two looks while nothing happens.
        least_step: strides of fewer pages are left to the kernel's read-ahead, which reads
            the pages between as fast.
        most_ahead: how far to read ahead, in steps.
        patience: how many touches without a pattern it takes to leave all to the kernel.
        advice: MADV_* for the mapping while its read-ahead is on.

    Raises:
        ValueError: `address` is not a page's, or a limit is out of range.
    """

    def __init__(
        self,
        address: int,
        length: int,
        *,
        least_interval_s: float = 50e-6,
        most_interval_s: float = 20e-3,
        least_step: int = 8,
        most_ahead: int = 512,
        patience: int = 12,
        advice: int = kernel.MADV_NORMAL,
    ) -> None:
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

    def start(self) -> None:
        """Start watching. What is mapped already counts as touched long ago.

        Raises:
            OSError: /proc/self/pagemap can't be opened, or no thread can be started.
            RuntimeError: it watches already.
        """
        self._thread.start()

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
