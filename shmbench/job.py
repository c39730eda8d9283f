"""An MPI job that measures: this node's ranks do the trials that its first rank asks for.

The processes are somebody else's and stay the same, so region and channel are made anew for each
trial, and each result is flagged `same_processes`. A trial that fails alike in all ranks costs a
case. Where one rank fails and others still wait for it, nothing can free them: the watchdog
(`shmbench.watchdog`) ends the job, and says which rank it was.
"""

from __future__ import annotations

import gc
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from shmbench.errors import PeerFailed, ShmbenchError, UsageError
from shmbench.group import Group
from shmbench.group.mpi import Node, identity
from shmbench.group.mpi_control import Control, control_bytes, lifeline
from shmbench.launch import outside_of_jobs
from shmbench.measure.placement import Topology, read_topology
from shmbench.native.process import set_parent_death_signal
from shmbench.regions import RegionSpec
from shmbench.regions.fixture import Fixtures
from shmbench.regions.memfd import MemfdRegion
from shmbench.results import Failure, Result
from shmbench.trial import (
    Trial,
    TrialReport,
    failure_of,
    fixture_of,
    report_of,
    run_standing_rank,
)

_WATCHDOG_START_S = 20.0


class Job:
    """This rank's part of the job. In the first rank of a node it is a TrialRunner.

    Args:
        output: the result file, to which the watchdog adds what ended the job.
        timeout_s: how long the ranks may take to be gone after the last trial.

    Attributes:
        node: this node's ranks.
        topology: the CPUs that any rank of the node may use: launchers bind each to its own. The
            first rank of each node knows those of all nodes.
        hosts: the names of the job's nodes, in their order, known to the first rank of each.
        mpi: which MPI this is, as it stands in each result.
    """

    def __init__(self, output: Path | None, timeout_s: float) -> None:
        set_parent_death_signal(signal.SIGKILL)
        self.node = Node()
        self._timeout_s = timeout_s
        self._fixtures = Fixtures()  # made by the first rank; nameless, so that none is left
        self.mpi = {**identity(), "job_ranks": self.node.world_size}
        affinities = self.node.allgather(os.sched_getaffinity(0))
        self._cpus = set[int]().union(*affinities)
        os.sched_setaffinity(0, self._cpus)
        self.topology: Topology = read_topology(allowed=self._cpus)
        self.hosts: list[str] = []
        if self.is_leader:
            known = self.node.of_all_nodes((platform.node(), self.topology))
            self.hosts = [host for host, _ in known]
            self.topology = replace(self.topology, nodes=tuple(each for _, each in known))
        spec = RegionSpec(control_bytes(self.node.size))
        region = MemfdRegion.create(spec) if self.is_leader else None
        handle = self.node.allgather(region.handle() if region else None)[0]
        self._region = region or MemfdRegion.attach(handle, spec)
        self._control = Control(self._region.memory, self.node.size)
        watched, self._lifeline = lifeline()
        processes = self.node.allgather((os.getpid(), self.node.world_rank))
        lifelines = self.node.allgather(f"/proc/{os.getpid()}/fd/{watched}")
        if self.is_leader:
            self._start_watchdog(handle, processes, lifelines, output)
        self.node.allgather(None)  # all have attached, and are watched
        os.close(watched)
        if region is not None:
            region.unlink()

    @property
    def is_leader(self) -> bool:
        """Is this the rank that asks for trials on this node?"""
        return self.node.rank == 0

    @property
    def is_first(self) -> bool:
        """Is this the rank that writes the result file?"""
        return self.node.world_rank == 0

    def _start_watchdog(
        self,
        handle: str,
        processes: list[tuple[int, int]],
        lifelines: list[str],
        output: Path | None,
    ) -> None:
        arguments = {
            "handle": handle,
            "processes": processes,
            "lifelines": lifelines,
            "output": str(output.resolve()) if output and self.is_first else None,
            "nodes": self.node.count,
            "mpi": self.mpi,
        }
        subprocess.Popen(
            [sys.executable, "-m", "shmbench.watchdog", msgspec.json.encode(arguments).decode()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=outside_of_jobs(os.environ),
            start_new_session=True,  # what ends the ranks must not end it before them
        )
        deadline = time.monotonic() + _WATCHDOG_START_S
        while not self._control.watchdog():
            if time.monotonic() > deadline:
                raise PeerFailed(
                    f"the watchdog did not start within {_WATCHDOG_START_S:g} s",
                    f"look at what it says: {sys.executable} -m shmbench.watchdog",
                )
            time.sleep(0.01)

    def run(self, trial: Trial) -> TrialReport:
        """In the first rank of the node: have the trial done by as many ranks as it has."""
        if len(trial.cpus) > self.node.size:
            why = UsageError(
                f"{trial.case.workload} wants {len(trial.cpus)} ranks, this node has "
                f"{self.node.size}",
                "start more ranks",
            )
            return TrialReport(failure=failure_of(why))
        try:
            fixture = fixture_of(trial.case, self._fixtures)
        except (ShmbenchError, OSError) as error:
            return TrialReport(failure=failure_of(error))
        if fixture is not None:
            trial = msgspec.structs.replace(trial, fixture=fixture.handle())
        self._begin(trial, len(trial.cpus))
        answer, failures = self._take_part(trial)
        self._control.end_trial()
        return _report(trial, answer, failures)

    def _begin(self, trial: Trial, ranks: int) -> None:
        """Have the node's first ranks begin a trial."""
        deadline_ns = time.monotonic_ns() + int(trial.timeout_s * 1e9)
        self._control.begin(msgspec.msgpack.encode(trial), ranks, deadline_ns)

    def serve(self) -> None:
        """In the other ranks: take part in trials until the first rank says that it is over."""
        turn = 0
        while True:
            turn = self._control.await_turn(turn)
            if self._control.is_over():
                return
            if self.node.rank < self._control.trial_ranks():
                self._take_part(msgspec.msgpack.decode(self._control.trial(), type=Trial))
            else:
                self._control.stand_by()

    def _take_part(self, trial: Trial) -> tuple[bytes, list[bytes]]:
        """This rank's answer, and the failures of all ranks."""
        answer = b""
        control = self._control
        with ExitStack() as stack:
            try:
                answer = run_standing_rank(trial, self._group(trial), stack)
            except KeyboardInterrupt:
                raise  # the whole job is to end
            except BaseException as error:
                self._fail(error)
            control.tell()
            failures = list(control.failures().values())
            # What is closed here may be collective, so nobody comes here before all have told.
        os.sched_setaffinity(0, self._cpus)
        gc.enable()
        gc.collect()
        control.closed()
        return answer, failures

    def _group(self, trial: Trial) -> Group:
        def arrived() -> None:
            self._control.arrive(self.node.rank)

        if trial.nodes is not None:
            return self.node.across(trial.nodes, len(trial.cpus) // 2, arrived)
        return self.node.group(len(trial.cpus), self._control.group_memory, arrived)

    def _fail(self, error: BaseException) -> None:
        failure = failure_of(error)
        if failure.remedy is None:
            failure.message = f"rank {self.node.rank} raised {failure.type}: {failure.message}"
        watchdog = self._control.fail(self.node.rank, msgspec.msgpack.encode(failure))
        with suppress(ProcessLookupError):
            os.kill(watchdog, signal.SIGUSR1)

    # In the first rank of each node, for trials whose ranks are on two nodes.

    def take_half(self, trial: Trial) -> TrialReport:
        """Have this node's first ranks be one half of the trial's; the other node does the same."""
        assert trial.nodes is not None
        first, second = trial.nodes
        self._begin(trial, len(trial.cpus) // 2)
        answer, failures = self._take_part(trial)
        # The deadline stays until both nodes are through: the watchdog is to see who hangs.
        other = second if self.node.number == first else first
        theirs = self.node.swap(other, msgspec.msgpack.encode(failures))
        self._control.end_trial()
        failures += msgspec.msgpack.decode(theirs, type=list[bytes])
        if self.node.number != first and not failures:
            return TrialReport()  # the other node has rank 0's answer
        return _report(trial, answer, failures)

    def agree(self, trouble: ShmbenchError | None) -> dict[str, str]:
        """Collective over the nodes: those that can't measure, each with what is in its way.

        Raises:
            ShmbenchError: no node can; this node's own trouble.
        """
        found = self.node.of_all_nodes(str(trouble) if trouble else None)
        if trouble is not None and all(found):
            raise trouble
        return {
            f"node {number} ({host})": why
            for number, (host, why) in enumerate(zip(self.hosts, found, strict=True))
            if why
        }

    # In the first rank of each node, between trials.

    def annotate(self, results: list[Result]) -> list[Result]:
        """Say in each result which MPI it is of."""
        for result in results:
            result.mpi = self.mpi
        return results

    def exchange(self, results: list[Result], *, last: bool) -> list[Result]:
        """Tell the first node this node's results; there, add what the others have told so far.

        Args:
            last: these are final; the first node waits for those of all others.
        """
        if self.node.number > 0:
            self.node.tell_first(msgspec.msgpack.encode(results), last=last)
            return results
        others = self.node.hear(last=last)
        return results + [
            result
            for number in sorted(others)
            for result in msgspec.msgpack.decode(others[number], type=list[Result])
        ]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The time in which only this node measures."""
        self.node.await_turn()
        try:
            yield
        finally:
            self.node.pass_turn()

    def end(self) -> None:
        """No further trial comes; the ranks go, and the watchdog after them."""
        self._fixtures.close()
        self._control.end(time.monotonic_ns() + int(self._timeout_s * 1e9))


def _report(trial: Trial, answer: bytes, failures: list[bytes]) -> TrialReport:
    if failures:
        return TrialReport(failure=msgspec.msgpack.decode(failures[0], type=Failure))
    return report_of(trial, answer)


def run_job(output: Path | None, timeout_s: float, lead: Callable[[Job], Any]) -> Any:
    """Join the job: the first rank of each node leads, the others serve it.

    Returns:
        What `lead` gave; None in the other ranks.
    """
    job = Job(output, timeout_s)
    if not job.is_leader:
        job.serve()
        return None
    try:
        return lead(job)
    finally:
        job.end()
