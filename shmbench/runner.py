"""A plan to results: which trial is next, when a case is done, and what its samples say."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from shmbench.cases import Case
from shmbench.channels import CHANNELS
from shmbench.errors import ShmbenchError
from shmbench.host import host_name
from shmbench.limits import LimitCase, limit_of
from shmbench.measure.distance import Distances
from shmbench.measure.flags import Flag
from shmbench.measure.placement import Placement, Topology, resolve
from shmbench.measure.sampling import SamplingOptions
from shmbench.measure.statistics import bootstrap_median, median, percentiles
from shmbench.measure.stopping import Decision, StoppingRule
from shmbench.native.histogram import Histogram
from shmbench.results import Failure, Limit, Result
from shmbench.suites import obstacle
from shmbench.trial import Trial, TrialReport, failure_of
from shmbench.workloads import WORKLOADS

# Of a case's groups: from this share on, a remark about single groups is one about the case.
_NOTICEABLE_SHARE = 0.25
_FLAGS = {str(flag): flag for flag in Flag}
_ABOUT_A_GROUP = frozenset({Flag.UNSTABLE, Flag.FOREIGN_CPU, Flag.STEAL})


class TrialRunner(Protocol):
    """Who runs trials: a Worker, or a script in the tests."""

    def run(self, trial: Trial) -> TrialReport:
        """Run one trial in a fresh group."""


@dataclass(frozen=True)
class Effort:
    """How much a run may take.

    Attributes:
        budget_s: no round starts a case again after this; each case is measured at least once.
        round_s: from the beginning of one round to that of the next, at least: what moves the
            machine lasts for seconds, and samples of one moment would all agree.
        rule: when a single case is done.
        sampling: how much each process group measures.
        timeout_s: of one process group.
        sampling_of: for cases that are measured in another way.
    """

    budget_s: float
    round_s: float = 0.0
    rule: StoppingRule = field(default_factory=StoppingRule)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    timeout_s: float = 30.0
    sampling_of: Mapping[Case, SamplingOptions] = field(default_factory=dict)


@dataclass(frozen=True)
class _Group:
    """What one process group of a case gave, and in which round."""

    round: int
    value: float
    trusted: bool
    histogram: bytes | None
    hand_overs: list[float]
    figures: dict[str, float]


@dataclass
class _Progress:
    """One case while the run goes on."""

    case: Case
    distances: Distances
    placement: Placement | None = None
    groups: list[_Group] = field(default_factory=list)
    group_flags: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    evidence: dict[str, Any] | None = None
    failure: Failure | None = None
    spent_s: float = 0.0
    decision: Decision = Decision.CONTINUE

    def take(self, report: TrialReport, seconds: float, round_: int) -> None:
        """Add what one group gave."""
        self.spent_s += seconds
        if report.failure is not None or report.value is None:
            self.failure = report.failure
            return
        trusted = Flag.UNTRUSTED not in report.flags
        self.groups.append(
            _Group(
                *(round_, report.value, trusted, report.histogram),
                *(report.hand_overs, report.figures),
            )
        )
        if self.placement is not None:
            self.distances.add(self.placement.cpus, report.hand_overs)
        self.group_flags.update(flag for flag in report.flags if flag != Flag.UNTRUSTED)
        self.counters.update(report.counters)
        self.evidence = report.evidence

    def decide(self, rule: StoppingRule) -> None:
        """Is this case done? Disturbed groups are tried again, as often as there may be groups."""
        self.decision = rule.decide([g.value for g in self._trusted()], self.spent_s)
        if self.decision is Decision.CONTINUE and len(self.groups) >= 2 * rule.max_groups:
            self.decision = Decision.MAX_GROUPS

    @property
    def done(self) -> bool:
        return self.failure is not None or self.decision is not Decision.CONTINUE

    def _at_usual_distance(self, group: _Group) -> bool:
        return self.placement is None or self.distances.is_usual(
            self.placement.cpus, group.hand_overs
        )

    def _trusted(self) -> list[_Group]:
        """The groups that were not disturbed; which ones, changes with what the run has seen."""
        return [g for g in self.groups if g.trusted and self._at_usual_distance(g)]

    def headline(self) -> tuple[list[_Group], list[Flag]]:
        """The groups that count, and UNTRUSTED where too many were disturbed to leave them out."""
        trusted = self._trusted()
        if 2 * len(trusted) <= len(self.groups):
            return self.groups, [Flag.UNTRUSTED] if self.groups else []
        return trusted, []

    def displaced(self) -> int:
        """How many groups were at another distance than most of the run."""
        return sum(not self._at_usual_distance(group) for group in self.groups)

    def hand_over_s(self) -> float | None:
        """Of the groups that count, the median."""
        seen = [each for group in self.headline()[0] for each in group.hand_overs]
        return median(seen) if seen else None

    def samples(self) -> list[float]:
        """Of the groups that count, in the order measured."""
        return [group.value for group in self.headline()[0]]

    def figures(self) -> dict[str, list[float]]:
        """What else was measured in each of the groups that count."""
        groups, _ = self.headline()
        names = groups[0].figures if groups else {}
        return {name: [group.figures[name] for group in groups] for name in names}

    def histogram(self) -> Histogram | None:
        """The single operations of the groups that count."""
        merged = None
        for group in self.headline()[0]:
            if group.histogram is not None:
                histogram = Histogram.from_bytes(group.histogram)
                if merged is None:
                    merged = histogram
                else:
                    merged.merge(histogram)
        return merged

    def beside(self, other: _Progress) -> list[float]:
        """For each of the other case's samples, this one's sample of the round nearest to it."""
        groups, _ = self.headline()
        return [
            min(groups, key=lambda group: abs(group.round - of_other.round)).value
            for of_other in other.headline()[0]
        ]

    def flags(self, rule: StoppingRule, limit: Limit | None = None) -> list[str]:
        """All remarks about this case and its limit, in the order in which `Flag` has them."""
        groups, found = self.headline()
        if limit is not None and Flag.UNTRUSTED in limit.flags:
            found.append(Flag.LIMIT_UNTRUSTED)
        found += rule.flags([group.value for group in groups], self.decision) if groups else []
        for flag, count in self.group_flags.items():
            if flag not in _ABOUT_A_GROUP or count >= _NOTICEABLE_SHARE * len(self.groups):
                found.append(_FLAGS[flag])
        if self.displaced():
            found.append(Flag.DISPLACED)
        if self.placement is not None and self.placement.oversubscribed:
            found.append(Flag.OVERSUBSCRIBED)
        return [str(flag) for flag in Flag if flag in found]


class Run:
    """One run of a plan: rounds over all cases, interleaved, until each is done or time is up.

    Args:
        cases: in the order in which each round takes them.
        explain: called before each trial with the share of the run that is done, and its label.
        checkpoint: called after each round; `results()` has what was measured until then.
        clock, sleep: seconds.
    """

    def __init__(
        self,
        cases: list[Case],
        topology: Topology,
        effort: Effort,
        *,
        explain: Callable[[float, str], None] = lambda share, label: None,
        checkpoint: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._effort = effort
        self._explain = explain
        self._checkpoint = checkpoint
        self._clock = clock
        self._sleep = sleep
        distances = Distances()
        self._cases = [_Progress(case, distances) for case in cases]
        self._by_case = {progress.case: progress for progress in self._cases}
        for progress in self._cases:
            self._prepare(progress, topology)

    @staticmethod
    def _prepare(progress: _Progress, topology: Topology) -> None:
        try:
            progress.placement = resolve(progress.case.placement, progress.case.ranks, topology)
            why = obstacle(progress.case, topology)
        except ShmbenchError as error:
            progress.failure = failure_of(error)
            return
        if why is not None:
            progress.failure = failure_of(why)

    def _limit_of(self, progress: _Progress) -> tuple[LimitCase, _Progress] | None:
        """The limit of a case, and the progress of the case that measures it; None without one."""
        if progress.placement is None or progress.placement.shares_cpu:
            return None
        limit = limit_of(progress.case)
        measured = self._by_case.get(limit.case) if limit is not None else None
        return (limit, measured) if limit is not None and measured is not None else None

    def _open_cases(self) -> set[Case]:
        """What the next round measures: cases that aren't done, and the limits beside them."""
        unfinished = [progress for progress in self._cases if not progress.done]
        beside = [found[1] for p in unfinished if (found := self._limit_of(p)) is not None]
        return {p.case for p in [*unfinished, *beside] if p.failure is None}

    def measure(self, runner: TrialRunner) -> None:
        """Run trials until all cases are done.

        Raises:
            KeyboardInterrupt: as it came; `results()` has what was measured until then.
        """
        start = self._clock()
        rounds = 0
        while open_cases := self._open_cases():
            if rounds:
                self._await_round(start, rounds)
            for progress in self._cases:
                spent = self._clock() - start
                if progress.case not in open_cases:
                    continue
                if rounds and spent >= self._effort.budget_s:
                    if not progress.done:
                        progress.decision = Decision.BUDGET
                    continue
                self._explain(self._share(spent), progress.case.label())
                self._try(progress, runner, rounds)
            rounds += 1
            self._checkpoint()

    def _await_round(self, start: float, rounds: int) -> None:
        """Sleep until this round may begin, but not beyond the budget."""
        begin = min(rounds * self._effort.round_s, self._effort.budget_s)
        self._sleep(max(0.0, start + begin - self._clock()))

    def _try(self, progress: _Progress, runner: TrialRunner, round_: int) -> None:
        assert progress.placement is not None
        before = self._clock()
        report = runner.run(
            Trial(
                progress.case,
                progress.placement.cpus,
                self._effort.sampling_of.get(progress.case, self._effort.sampling),
                self._effort.timeout_s,
                nodes=progress.placement.nodes,
            )
        )
        progress.take(report, self._clock() - before, round_)
        progress.decide(self._effort.rule)

    def _share(self, spent_s: float) -> float:
        """How much of the run is done: by time, or by groups where that is further."""
        wanted = self._effort.rule.min_groups
        groups = sum(wanted if p.done else min(len(p.groups), wanted) for p in self._cases)
        by_groups = groups / (wanted * max(1, len(self._cases)))
        return min(1.0, max(by_groups, spent_s / self._effort.budget_s))

    def results(self) -> list[Result]:
        """A result for each case that was measured or failed, with its limit."""
        host = host_name()
        return [
            self._result(progress, host)
            for progress in self._cases
            if progress.groups or progress.failure
        ]

    def _result(self, progress: _Progress, host: str) -> Result:
        case = progress.case
        workload = WORKLOADS.get(case.workload)
        samples = progress.samples()
        histogram = progress.histogram()
        middle = median(samples) if samples else None
        channel = CHANNELS.get(f"{case.driver}/{case.channel}") if case.channel else None
        moves = workload.moves_bytes and (channel is None or channel.delivers)
        moved = workload.bytes_per_operation(case) if moves else 0
        limit = self._limit(progress, samples)
        return Result(
            **msgspec.structs.asdict(case),
            host=host,
            samples=samples,
            median=middle,
            ci=list(bootstrap_median(samples)) if len(samples) > 1 else None,
            percentiles=(
                percentiles(histogram, 1 / workload.operations(case))
                if histogram is not None
                else None
            ),
            bytes_per_second=moved / middle if moved and middle else None,
            limit=limit,
            counters={
                **{name: float(value) for name, value in progress.counters.items()},
                "displaced_groups": float(progress.displaced()),
            },
            flags=progress.flags(self._effort.rule, limit),
            error=progress.failure,
            operation=workload.operation,
            copies=channel.copies if channel else None,
            cpus=list(progress.placement.cpus) if progress.placement else [],
            evidence=progress.evidence,
            hand_over=progress.hand_over_s(),
            groups=len(progress.groups),
            figures=progress.figures(),
        )

    def _limit(self, progress: _Progress, samples: list[float]) -> Limit | None:
        found = self._limit_of(progress)
        if found is None or not samples or not found[1].groups:
            return None
        limit, measured = found
        beside = [value * limit.times for value in measured.beside(progress)]
        ratios = [sample / other for sample, other in zip(samples, beside, strict=True)]
        return Limit(
            name=limit.name,
            value=median(measured.samples()) * limit.times,
            ratio=median(ratios),
            ci=list(bootstrap_median(ratios)) if len(ratios) > 1 else None,
            samples=beside,
            flags=measured.flags(self._effort.rule),
        )
