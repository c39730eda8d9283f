"""A whole run in an MPI job: each node for itself, then pairs of nodes where they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shmbench import machine
from shmbench.across import Across
from shmbench.cases import Case
from shmbench.channels import CHANNELS
from shmbench.errors import ShmbenchError, UsageError
from shmbench.job import Job
from shmbench.measure.placement import across, node_pairs, resolve
from shmbench.measure.stopping import StoppingRule
from shmbench.peers import Peer
from shmbench.results import Result, ResultFile, node_runs, save
from shmbench.runner import Effort, Run, TrialRunner
from shmbench.session import (
    Lines,
    Record,
    check_axes,
    effort_of,
    new_file,
    plan_of,
    selections,
    why_nothing,
)
from shmbench.suites import Plan, Selection, plan
from shmbench.workloads import WORKLOADS

_AT_LEAST_TWO = "start 2 or more: -n, or --ranks"


@dataclass(frozen=True)
class Wanted:
    """What the user asked for.

    Attributes:
        name: of the suite; None: what the axes choose.
        axes: fields of Selection; those that are None are left as they are.
        in_turn: of the job's nodes, one after the other measures.
        across_nodes: pairs of nodes are measured as well.
        like: one benchmark of others, measured as it does it; None: the suite or the choice.
    """

    name: str | None
    axes: dict[str, Any]
    in_turn: bool = False
    across_nodes: bool = False
    like: Peer | None = None

    def effort(self, cases: list[Case], **options: Any) -> Effort:
        """How much each case may take."""
        given = any(value is not None for value in self.axes.values())
        timeout_s = options.pop("timeout_s")
        if self.like is None:
            return Effort(timeout_s=timeout_s, **effort_of(self.name, given, **options))
        once = effort_of(None, True, **options) | {"rule": StoppingRule(1, 1)}
        sampling = {case: self.like.sampling(case) for case in cases}
        return Effort(timeout_s=timeout_s, sampling_of=sampling, **once)


def measure(
    job: Job, wanted: Wanted, output: Path | None, *, doctor: bool = False, **options: Any
) -> ResultFile:
    """In the first rank of each node: measure, and keep the first node's result file up to date.

    Args:
        doctor: ask the doctor first, and keep what it finds on each node in the result file.
        options: budget_s, timeout_s and quick, as `session.measure` takes them.

    Returns:
        In the first rank of the job the results of all nodes; elsewhere this node's.

    Raises:
        UsageError, Unavailable: no node of the job can measure what is wanted.
    """
    trouble, own = None, Plan()
    try:
        own = _own_plan(job, wanted)
    except ShmbenchError as error:
        trouble = error
    left_out = job.agree(trouble)
    effort = wanted.effort(own.cases, **options)
    file = new_file(wanted.name, wanted.axes, effort, own, doctor=doctor)
    file.plan["left_out"] |= left_out
    file.plan["mpi"] = {**job.mpi, "nodes": job.node.count}
    if job.node.count > 1:
        each = [node for nodes in job.node.of_all_nodes(node_runs(file)) for node in nodes]
        file.nodes = list({node.host: node for node in each}.values())
        file.machine = machine.shared([node.machine for node in file.nodes])
    run = _JobRun(job, file, output)
    with job.turn() if wanted.in_turn else nullcontext():
        run.measure(own.cases, job, effort, lambda found: job.exchange(found, last=False))
    file.results = job.exchange(job.annotate(run.own), last=True)
    if wanted.across_nodes:
        _measure_across(run, wanted, options)
    run.save()
    return file


def _own_plan(job: Job, wanted: Wanted) -> Plan:
    """What this node measures for itself."""
    check_axes(wanted.axes)  # without ranks: a case takes as many of the job's as it can use
    if wanted.across_nodes:
        if job.node.count < 2:
            raise UsageError("--across-nodes: the job has 1 node", "start it over 2 or more")
        if wanted.like is not None or job.node.size < 2:
            return Plan()
    if job.node.size < 2:
        raise UsageError("an MPI job with 1 rank on this node", _AT_LEAST_TWO)
    if wanted.like is not None:
        sizes, placements = wanted.axes.get("sizes"), wanted.axes.get("placements")
        return wanted.like.cases(job.topology, job.node.size, sizes, placements)
    axes = {**wanted.axes, "launcher": "mpi", "ranks": job.node.size}
    return plan_of(wanted.name, axes, job.topology)


def _plan_across(job: Job, wanted: Wanted) -> Plan:
    """Pairs of ranks on two nodes, over the channels of MPI; of `like` on the first two nodes."""
    ranks = 2 * min(job.node.sizes)
    placements = tuple(across(*pair) for pair in node_pairs(job.node.count))
    if wanted.like is not None:
        sizes = wanted.axes.get("sizes")
        return wanted.like.cases(job.topology, ranks, sizes, placements[:1])
    mpi = [kind for kind in CHANNELS.names() if CHANNELS.get(kind).needs_mpi]
    kinds = [kind.partition("/")[2] for kind in mpi]

    def of_pairs(each: Selection) -> Selection:
        return replace(
            each,
            workloads=tuple(w for w in each.workloads if WORKLOADS.get(w).across_nodes),
            channels=tuple(kind for kind in each.channels or kinds if kind in kinds),
            placements=placements,
            launcher="mpi",
            ranks=ranks,
        )

    chosen = [of_pairs(each) for each in selections(wanted.name, wanted.axes)]
    usable = tuple(each for each in chosen if each.workloads and each.channels)
    made = plan(usable, job.topology, asked_for=False)
    if not made.cases:
        raise UsageError("--across-nodes: no pairs of ranks among the cases", why_nothing(made))
    return made


def _measure_across(run: _JobRun, wanted: Wanted, options: dict[str, Any]) -> None:
    """When all nodes have measured for themselves: the first rank leads, the others serve it."""
    job, own = run.job, run.file.results
    trials = Across(job)
    if not job.is_first:
        trials.serve()
        return

    def named(found: list[Result]) -> list[Result]:
        for result in found:
            nodes = resolve(result.placement, result.ranks, job.topology).nodes or ()
            result.host = ",".join(job.hosts[number] for number in nodes)
        return own + found

    try:
        made = _plan_across(job, wanted)
        run.file.plan["cases"] += len(made.cases)
        run.file.plan["left_out"] |= {label: str(why) for label, why in made.left_out.items()}
        run.measure(made.cases, trials, wanted.effort(made.cases, **options), named)
        run.file.results = named(job.annotate(run.own))
    finally:
        trials.end()


class _JobRun:
    """What is measured is kept after each trial: the death of any rank ends the whole job.

    Attributes:
        own: the results of the cases that were measured last.
    """

    def __init__(self, job: Job, file: ResultFile, output: Path | None) -> None:
        self.job, self.file, self._output = job, file, output
        self.own: list[Result] = []

    def save(self) -> None:
        """In the first rank of the job: write the file."""
        if self._output is not None and self.job.is_first:
            save(self.file, self._output)

    def measure(
        self,
        cases: list[Case],
        runner: TrialRunner,
        effort: Effort,
        gathered: Callable[[list[Result]], list[Result]],
    ) -> None:
        """Measure cases.

        Args:
            gathered: from the results of these cases, all that the file is to have.
        """
        progress = Lines()

        def gather() -> list[Result]:
            return gathered(self.job.annotate(session.results()))

        def explain(share: float, label: str) -> None:
            record.keep_if_due()
            if self.job.is_first:
                progress.show(share, label)

        session = Run(
            cases, self.job.topology, effort, explain=explain, checkpoint=lambda: record.keep()
        )
        record = Record(self.file, gather, self.save)
        self.file.plan["interrupted"] = True
        with suppress(KeyboardInterrupt), progress:
            session.measure(runner)
            self.file.plan["interrupted"] = False
        record.keep()
        self.own = session.results()
