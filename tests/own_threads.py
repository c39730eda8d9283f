"""The threads of this process, as the kernel lists them."""

import time
from collections.abc import Callable
from pathlib import Path


def threads() -> set[Path]:
    return set(Path("/proc/self/task").iterdir())


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Wait until something holds; false if it never did."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def ended(before: set[Path]) -> bool:
    """Whether no thread is left that wasn't there before.

    A thread that has been joined is listed a moment longer: the kernel wakes who joins it before
    it takes the thread from the list.
    """
    return within(5, lambda: threads() <= before)
