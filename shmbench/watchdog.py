"""Watches the MPI ranks of one node: names the one that died or hangs, and leaves none behind.

`python -m shmbench.watchdog ARGUMENTS` is started by the node's first rank, in a session of its
own: a launcher that ends all ranks because one has died doesn't tell which, and the rank that
writes the results may be the first to go. The watchdog sleeps until a rank ends, a rank says that
it failed (SIGUSR1), or a trial's deadline is over.

A rank has ended when its pidfd_open(2) says so; but its launcher may know before that, and have
ended another one meanwhile. So each rank has a lifeline, which is the first to tell.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from shmbench.clean import mpi_leftovers, remove
from shmbench.errors import ShmbenchError
from shmbench.group.mpi_control import Control, control_bytes
from shmbench.host import host_name
from shmbench.regions import RegionSpec
from shmbench.regions.memfd import MemfdRegion
from shmbench.results import Failure, Result, load, save
from shmbench.trial import Trial

_GRACE_S = 1.0  # for the other ranks to come to an end when one has failed
_IDLE_S = 1.0  # between looks when there is no deadline
_GONE_S = 10.0  # until the kernel has taken away what was killed


class Arguments(msgspec.Struct):
    """What the first rank tells its watchdog.

    Attributes:
        handle: of the control memory.
        processes: process id and world rank, by rank of the node.
        lifelines: paths of the pipes' reading ends, by rank of the node.
        output: the result file that this node writes; None for none.
        nodes: how many nodes the job has.
    """

    handle: str
    processes: list[tuple[int, int]]
    lifelines: list[str]
    output: str | None
    nodes: int
    mpi: dict[str, Any]


class Watchdog:
    """The ranks as file descriptors, and what they have said."""

    def __init__(self, arguments: Arguments) -> None:
        ranks = len(arguments.processes)
        self._region = MemfdRegion.attach(arguments.handle, RegionSpec(control_bytes(ranks)))
        self._control = Control(self._region.memory, ranks)
        self._arguments = arguments
        self._epoll = select.epoll()
        # By descriptor, the rank on the node: pipes that haven't hung up, processes that live.
        self._lifelines: dict[int, int] = {}
        self._alive: dict[int, int] = {}
        for rank, (pid, _) in enumerate(arguments.processes):
            lifeline = os.open(arguments.lifelines[rank], os.O_RDONLY | os.O_NONBLOCK)
            self._lifelines[lifeline] = rank
            self._epoll.register(lifeline, select.EPOLLHUP)
            process = os.pidfd_open(pid)
            self._alive[process] = rank
            self._epoll.register(process, select.EPOLLIN)
        # The signal only has to interrupt the waiting.
        self._wakes, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._epoll.register(self._wakes, select.EPOLLIN)
        self._control.watched_by(os.getpid())

    def run(self) -> Failure | None:
        """Watch until no rank is left; gives what ended the job before its time."""
        failure = None
        while self._alive and failure is None:
            failure = self._look()
        if failure is not None:
            self._kill_all()
        return failure

    def _look(self) -> Failure | None:
        """Sleep until something happens; what has to end the job, if anything."""
        ended = self._wait(self._sleep_s())
        control = self._control
        if ended and not control.is_over():
            return self._died(ended[0])
        if control.deadline_ns() and control.failures():
            return self._failed()
        if control.deadline_ns() and time.monotonic_ns() >= control.deadline_ns():
            return self._hangs()
        return None

    def _sleep_s(self) -> float:
        deadline_ns = self._control.deadline_ns()
        return max(0.0, deadline_ns - time.monotonic_ns()) * 1e-9 if deadline_ns else _IDLE_S

    def _wait(self, seconds: float) -> list[int]:
        """The ranks that have ended, in the order in which they did (epoll(7) keeps it)."""
        ended = []
        for descriptor, _ in self._epoll.poll(seconds + 0.001):
            if descriptor == self._wakes:
                os.read(self._wakes, 1024)
                continue
            of = self._lifelines if descriptor in self._lifelines else self._alive
            ended.append(of.pop(descriptor))
            self._epoll.unregister(descriptor)
            os.close(descriptor)
        return ended

    def _name(self, rank: int) -> str:
        world_rank = self._arguments.processes[rank][1]
        return f"rank {world_rank}"

    def _died(self, rank: int) -> Failure:
        if failure := self._control.failures().get(rank):
            return self._said(failure)
        others = "; another node's rank may have been first" if self._arguments.nodes > 1 else ""
        return Failure(
            type="PeerFailed",
            message=f"{self._name(rank)} ({self._process(rank)}) ended before its time{others}",
            remedy="see what was said above: killed, out of memory, MPI_Abort in some rank?",
        )

    def _process(self, rank: int) -> str:
        return f"process {self._arguments.processes[rank][0]} on {host_name()}"

    def _said(self, failure: bytes) -> Failure:
        return msgspec.msgpack.decode(failure, type=Failure)

    def _failed(self) -> Failure | None:
        """A rank failed; None when the others came to an end as well, so that the job goes on."""
        turn = self._control.turn()
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            if self._control.turn() != turn or not self._control.deadline_ns():
                return None
            if ended := self._wait(0.02):
                return self._died(ended[0])
        failures = self._control.failures()
        return self._said(failures[min(failures)]) if failures else None

    def _hangs(self) -> Failure:
        alive = sorted(self._alive.values())
        over = self._control.is_over()
        behind = alive if over else [r for r in self._control.last_to_arrive() if r in alive]
        stopped = [rank for rank in alive if self._state(rank) in "Tt"]
        named = ", ".join(self._name(rank) for rank in stopped or behind)
        return Failure(
            type="CaseTimeout",
            message=f"no answer from {named} within the time-out",
            remedy="a rank hangs, or the case needs a longer --timeout",
        )

    def _state(self, rank: int) -> str:
        """The letter of proc_pid_stat(5): R, S, D, T ..."""
        with suppress(OSError):
            text = Path(f"/proc/{self._arguments.processes[rank][0]}/stat").read_text()
            return text.rpartition(")")[2].split()[0]
        return "X"

    def _kill_all(self) -> None:
        deadline = time.monotonic() + _GONE_S
        for descriptor in self._alive:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        while self._alive and time.monotonic() < deadline:
            self._wait(0.05)

    def case_label(self) -> str:
        """What was measured, for the message."""
        trial = self._control.trial()
        return msgspec.msgpack.decode(trial, type=Trial).case.label() if trial else "the start"

    def record(self, failure: Failure) -> None:
        """Add the failure to the result file: of the case that was measured, if one was."""
        trial = self._control.trial()
        if self._arguments.output is None or not trial:
            return
        path = Path(self._arguments.output)
        case = msgspec.msgpack.decode(trial, type=Trial).case
        file = load(path)
        host = host_name()
        for result in file.results:
            if result.case() == case and result.host == host:
                result.error = failure
                break
        else:
            file.results.append(
                Result(
                    **msgspec.structs.asdict(case),
                    host=host,
                    error=failure,
                    mpi=self._arguments.mpi,
                )
            )
        file.plan["interrupted"] = True
        save(file, path)


def main() -> None:
    """Watch; after a failure say it and keep it; clear up."""
    watchdog = Watchdog(msgspec.json.decode(sys.argv[1], type=Arguments))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the ranks have
    failure = watchdog.run()
    if failure is not None:
        tell(watchdog, failure)
    # Also after a job that ended well: a launcher that ends ranks because one has another exit code
    # than 0 may leave segments.
    remove(mpi_leftovers(least_age_s=0.0))


def tell(watchdog: Watchdog, failure: Failure) -> None:
    """Say a failure to the user, and keep it in the result file."""
    message = f"{watchdog.case_label()}: {failure.message}"
    with suppress(OSError):  # who listened may be gone
        print(f"shmbench: {message}; {failure.remedy or ''}", file=sys.stderr, flush=True)
    with suppress(ShmbenchError, OSError):  # there may be no file yet
        watchdog.record(failure)


if __name__ == "__main__":
    main()
