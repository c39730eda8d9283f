"""One case in one fresh group of processes: open, validate, sample, close. Runs in the leader.

The leader makes what must be inherited, forks the ranks, and puts their reports together. Nothing
that it imports draws, prints or parses command lines.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec

from shmbench.cases import Case
from shmbench.channels import CHANNELS, Channel, ChannelSpec
from shmbench.errors import ShmbenchError, ValidationFailed
from shmbench.group import Group
from shmbench.group.process import run_ranks
from shmbench.measure.distance import hand_over_s
from shmbench.measure.flags import Flag
from shmbench.measure.placement import share_cpu
from shmbench.measure.sampling import Sample, SamplingOptions, sample
from shmbench.native.histogram import Histogram
from shmbench.native.process import pin_to_cpu
from shmbench.regions import REGIONS, Region, RegionSpec, Slice, Span
from shmbench.regions.fixture import Fixture, Fixtures
from shmbench.regions.pages import evidence, prepare
from shmbench.results import Failure
from shmbench.suites import layout
from shmbench.workloads import WORKLOADS, Context, Workload

_HISTOGRAM_OPERATIONS_MAX = 20_000


class Trial(msgspec.Struct, frozen=True):
    """What a leader is asked to do.

    Attributes:
        cpus: the CPU of each rank.
        timeout_s: until all ranks must have reported.
        fixture: the handle of the file that the workload wants, where ranks don't inherit it.
        nodes: of an MPI job, that have half of the ranks each; None: all are on one.
    """

    case: Case
    cpus: tuple[int, ...]
    sampling: SamplingOptions
    timeout_s: float = 30.0
    fixture: str | None = None
    nodes: tuple[int, int] | None = None


class RankReport(msgspec.Struct):
    """What rank 0 says at the end; the others have nothing to add."""

    sample: Sample
    evidence: dict[str, Any] | None
    histogram: bytes | None
    flags: list[Flag]  # the workload's own
    hand_overs: list[float]
    figures: dict[str, float]


class TrialReport(msgspec.Struct):
    """What came of a trial.

    Attributes:
        value: seconds per operation, the median over batches; None when it failed.
        histogram: of single operations, as Histogram.to_bytes gives it.
        hand_overs: seconds of a cache line's way between the first two ranks, before and after;
            empty where they share a CPU, or no node.
        figures: what else the trial measured, see `Result.figures`.
    """

    value: float | None = None
    flags: list[str] = []
    counters: dict[str, float] = {}
    evidence: dict[str, Any] | None = None
    histogram: bytes | None = None
    hand_overs: list[float] = []
    failure: Failure | None = None
    figures: dict[str, float] = {}


def failure_of(error: BaseException) -> Failure:
    """An error as the result file keeps it."""
    if isinstance(error, ShmbenchError):
        return Failure(type=type(error).__name__, message=error.message, remedy=error.remedy)
    return Failure(type=type(error).__name__, message=str(error) or repr(error))


@dataclass
class _Opening:
    """What a case opens, by its specs: made in the leader, used by each rank after the fork."""

    channel: type[Channel] | None
    channel_spec: ChannelSpec | None
    ack_spec: ChannelSpec | None
    region: type[Region] | None
    region_spec: RegionSpec | None
    inherited: dict[str, Any]

    @classmethod
    def of(cls, trial: Trial, stack: ExitStack) -> _Opening:
        """Make what has to be inherited; the stack releases it in the leader."""
        case = trial.case
        yielding = share_cpu(trial.cpus, trial.nodes)
        channel_spec, ack_spec, region_spec = layout(case, yielding=yielding)
        opening = cls(
            CHANNELS.get(f"{case.driver}/{case.channel}") if case.channel else None,
            channel_spec,
            ack_spec,
            REGIONS.get(case.region) if case.region else None,
            region_spec,
            {},
        )
        if opening.region and opening.region_spec:
            opening.inherited["region"] = opening.region.inherit(opening.region_spec)
        if opening.channel and opening.channel_spec:
            opening.inherited["channel"] = opening.channel.inherit(opening.channel_spec)
        if opening.channel and opening.ack_spec:
            opening.inherited["acks"] = opening.channel.inherit(opening.ack_spec)
        for made in opening.inherited.values():
            if made is not None:
                stack.callback(made.close)
        return opening


def _open(
    trial: Trial,
    opening: _Opening,
    group: Group,
    stack: ExitStack,
    fixture: Fixture | None,
    helper_cpus: frozenset[int],
) -> tuple[Workload, Region | None, dict[str, Any] | None]:
    """In a rank: open region, channels and workload; the stack closes them in reverse."""
    region: Region | None = None
    prepared: dict[str, Any] | None = None
    if opening.region and opening.region_spec:
        region = opening.region.open(group, opening.region_spec, opening.inherited["region"])
        stack.callback(region.close)
        prepared = prepare(region, opening.region_spec, group, trial.case.first_touch or 0)
    offset = 0

    def part(size: int) -> Span | None:
        nonlocal offset
        if region is None or size == 0:
            return None
        offset += size
        return Slice.of(region, offset - size, size)

    channels: list[Channel | None] = []
    for name, spec in (("channel", opening.channel_spec), ("acks", opening.ack_spec)):
        channel = None
        if opening.channel and spec:
            memory = part(opening.channel.region_bytes(spec))
            channel = opening.channel.open(group, spec, memory, opening.inherited[name])
            stack.callback(channel.close)
        channels.append(channel)
    workload_class = WORKLOADS.get(trial.case.workload)
    own = part(workload_class.region_bytes(trial.case))
    workload = workload_class(
        Context(trial.case, group, trial.cpus, fixture, helper_cpus, own, *channels)
    )
    stack.callback(workload.close)
    return workload, region, prepared


def _histogram(workload: Workload, case: Case, group: Group, measured: Sample) -> bytes | None:
    """The pass for percentiles: as many operations as one batch had, bounded."""
    if not workload.has_percentiles:
        return None
    iterations = min(_HISTOGRAM_OPERATIONS_MAX, max(b.iterations for b in measured.batches))
    histogram = Histogram()
    group.barrier()
    workload.histogram_batch(iterations, histogram)
    return histogram.to_bytes() if group.rank == 0 else None


def _summed(group: Group, mine: dict[str, float]) -> dict[str, float]:
    """Collective: counters by name, summed over ranks."""
    summed: Counter[str] = Counter()
    for item in group.allgather(msgspec.msgpack.encode(mine)):
        summed.update(msgspec.msgpack.decode(item, type=dict[str, float]))
    return dict(summed)


def _run_rank(
    trial: Trial, opening: _Opening, group: Group, stack: ExitStack, fixture: Fixture | None
) -> bytes:
    """Everything that one rank does; the stack closes what it opened."""
    gc.disable()
    allowed = os.sched_getaffinity(0)
    pin_to_cpu(trial.cpus[group.rank])
    helper_cpus = frozenset(allowed - set(trial.cpus)) or frozenset(allowed)
    workload, region, prepared = _open(trial, opening, group, stack, fixture, helper_cpus)
    group.barrier()
    workload.validate()
    group.barrier()
    apart = trial.nodes is None and len(set(trial.cpus[:2])) > 1
    hand_overs = [hand_over_s(group)] if apart else []
    measured = sample(group, workload, trial.sampling, workload.timing_rank)
    if apart:
        hand_overs.append(hand_over_s(group))
    if tuple(measured.cpus) != trial.cpus:
        raise ValidationFailed(
            f"ranks ran on CPUs {measured.cpus}, not on {list(trial.cpus)}",
            "something else changes the affinity of processes on this machine",
        )
    histogram = _histogram(workload, trial.case, group, measured)
    shown = workload.evidence()
    if region is not None and prepared is not None:
        shown = {**prepared, **evidence(region), **shown}
    measured.counters |= _summed(group, workload.counters())
    if group.rank != 0:
        return b""
    figures = workload.figures() | _rank_figures(workload, trial.case, measured)
    return msgspec.msgpack.encode(
        RankReport(measured, shown or None, histogram, workload.flags(), hand_overs, figures)
    )


def _rank_figures(workload: Workload, case: Case, measured: Sample) -> dict[str, float]:
    """What the ranks took by their own clocks; nothing where only one of them has a time."""
    times = [s / workload.operations(case) for s in measured.rank_seconds if s > 0]
    if len(times) < 2:
        return {}
    return {
        "fastest_rank_s": min(times),
        "mean_rank_s": sum(times) / len(times),
        "slowest_rank_s": max(times),
    }


def _run_forked_rank(
    trial: Trial, opening: _Opening, group: Group, fixture: Fixture | None
) -> bytes:
    """In a rank that was forked for this trial."""
    with ExitStack() as stack:
        return _run_rank(trial, opening, group, stack, fixture)


def run_standing_rank(trial: Trial, group: Group, stack: ExitStack) -> bytes:
    """In a rank that was there before and has inherited nothing.

    The caller closes the stack when all ranks are here: what closes may be collective.
    """
    fixture = None
    if trial.fixture is not None:
        fixture = Fixture.attach(trial.fixture)
        stack.callback(fixture.close)
    return _run_rank(trial, _Opening.of(trial, stack), group, stack, fixture)


def fixture_of(case: Case, fixtures: Fixtures) -> Fixture | None:
    """The file that the case's workload wants; None where it wants none.

    Raises:
        ShmbenchError, OSError: it can't be made.
    """
    wanted = WORKLOADS.get(case.workload).fixture(case)
    return fixtures.get(wanted) if wanted else None


def run_trial(trial: Trial, fixture: Fixture | None = None) -> TrialReport:
    """Measure one case in one fresh group; an error of any kind is in the report.

    Args:
        fixture: what `Workload.fixture` asked for, open.
    """
    try:
        with ExitStack() as stack:
            opening = _Opening.of(trial, stack)
            answers = run_ranks(
                len(trial.cpus),
                lambda group: _run_forked_rank(trial, opening, group, fixture),
                timeout_s=trial.timeout_s,
            )
    except Exception as error:
        return TrialReport(failure=failure_of(error))
    return report_of(trial, answers[0])


def report_of(trial: Trial, answer: bytes) -> TrialReport:
    """What rank 0's answer says of the trial."""
    report = msgspec.msgpack.decode(answer, type=RankReport)
    flags = report.sample.flags + report.flags
    if trial.case.launcher == "mpi":
        flags.append(Flag.SAME_PROCESSES)
    if trial.case.pages == "untouched":
        flags.append(Flag.UNTOUCHED)
    if (
        trial.case.pages == "thp"
        and report.evidence is not None
        and report.evidence["huge_bytes"] < report.evidence["bytes"]
    ):
        flags.append(Flag.THP_NOT_GOT)
    operations = WORKLOADS.get(trial.case.workload).operations(trial.case)
    return TrialReport(
        value=report.sample.seconds / operations,
        flags=[str(flag) for flag in flags],
        counters=report.sample.counters,
        evidence=report.evidence,
        histogram=report.histogram,
        hand_overs=report.hand_overs,
        figures=report.figures,
    )
