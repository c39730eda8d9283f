"""Run by `python -m mpi4py`: shmbench with a workload that fails in one rank, in a way of choice.

mpi_faults.py FAULT RANK run --workload faulty ...
"""

from __future__ import annotations

import os
import signal
import sys
import time

from shmbench.cli import main
from shmbench.errors import ValidationFailed
from shmbench.workloads import WORKLOADS, Context, Workload

FAULT, RANK = sys.argv[1], int(sys.argv[2])
BATCHES_BEFORE = 5


class Faulty(Workload):
    """Sleeps in each batch, and fails in one rank's fifth."""

    name = "faulty"
    summary = "fails"
    operation = "sleep"
    drivers = ("native",)
    uses_channel = False
    has_sizes = False

    def __init__(self, context: Context) -> None:
        self._rank = context.group.rank
        self._batches = 0

    def validate(self) -> None:
        if FAULT == "everywhere":
            raise ValidationFailed("wrong in all ranks", "nothing")

    def batch(self, iterations: int) -> int:
        self._batches += 1
        if self._batches == BATCHES_BEFORE and self._rank == RANK:
            fail()
        time.sleep(0.001)
        return 1_000_000


def fail() -> None:
    if FAULT == "raise":
        raise RuntimeError("on purpose")
    if FAULT == "exit":
        sys.exit(3)
    if FAULT == "abort":
        os.abort()
    if FAULT == "mpi_abort":
        from mpi4py import MPI

        MPI.COMM_WORLD.Abort(7)
    if FAULT == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if FAULT == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if FAULT == "hang":
        time.sleep(1000)


if __name__ == "__main__":
    WORKLOADS._targets["faulty"] = "__main__:Faulty"
    sys.argv[1:] = sys.argv[3:]
    main()
