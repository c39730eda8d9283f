"""What all benchmarks share. It loads nothing of shmbench: the measured commit may be old."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

GROUP = 60.0  # seconds that one call may take; asv's own time-out is later


def tracked(pretty_name: str, rounds: int = 14) -> Callable[[Any], Any]:
    """Name a benchmark and its number of rounds; asv looks for both on the function."""

    def mark(function: Any) -> Any:
        function.pretty_name = pretty_name
        function.rounds = rounds
        return function

    return mark


class Tracked:
    """Base of all benchmarks: seconds per operation, lower is better.

    asv calls `setup` and then `track_*` with the same parameters, in a process of their own.
    `axes` of a subclass says which case the parameters mean. What the commit or the machine lacks
    is skipped; whatever fails in measuring fails.
    """

    unit = "seconds"
    type = "time"  # with samples: a distribution whose lower values are better
    version = "1"
    timeout = 90.0
    over_mpi = False

    def axes(self, *parameters: Any) -> dict[str, Any]:
        raise NotImplementedError

    def setup(self, *parameters: Any) -> None:
        with_mpi = importlib.util.find_spec("mpi4py") is not None
        if with_mpi != self.over_mpi:
            where = "with" if self.over_mpi else "without"
            raise NotImplementedError(f"measured in the environments {where} MPI")
        try:
            from shmbench import tracking
            from shmbench.errors import ShmbenchError
        except ImportError as error:
            raise NotImplementedError(f"this commit has nothing to track with: {error}") from error
        try:
            self._case = tracking.find_case(**self.axes(*parameters))
        except ShmbenchError as error:
            raise NotImplementedError(str(error)) from error
        self._tracking = tracking

    def measure(self) -> dict[str, Any]:
        return self._tracking.measure(self._case, timeout_s=GROUP)


def memory_directory() -> str:
    """Where a file is memory: its figures are those of the page cache, not of a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
