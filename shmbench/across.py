"""Trials whose ranks are on two nodes of an MPI job: what a message costs that leaves its node."""

from __future__ import annotations

import msgspec

from shmbench.job import Job
from shmbench.trial import Trial, TrialReport


class Across:
    """Trials whose ranks are on two nodes of the job; in its first rank a TrialRunner.

    Once all nodes have measured for themselves, the first rank leads, and the first ranks of the
    others `serve` it.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._node = job, job.node

    def run(self, trial: Trial) -> TrialReport:
        """In the first rank of the job: have two nodes do the trial."""
        assert trial.nodes is not None
        first, _ = trial.nodes
        for number in trial.nodes:
            if number != self._node.number:
                self._node.post(number, msgspec.msgpack.encode(trial))
        own = self._job.take_half(trial) if self._node.number in trial.nodes else None
        if own is not None and first == self._node.number:
            return own
        return msgspec.msgpack.decode(self._node.fetch(first), type=TrialReport)

    def serve(self) -> None:
        """In the first rank of another node: take part until the first says that it is over."""
        while item := self._node.fetch(0):
            trial = msgspec.msgpack.decode(item, type=Trial)
            report = self._job.take_half(trial)
            if trial.nodes is not None and trial.nodes[0] == self._node.number:
                self._node.post(0, msgspec.msgpack.encode(report))

    def end(self) -> None:
        """No further trial comes."""
        for number in range(1, self._node.count):
            self._node.post(number, b"")
