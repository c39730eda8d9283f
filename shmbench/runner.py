"""A plan to results: which trial is next, when a case is done, and what its samples say."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from shmbench.cases import Case
from shmbench.channels import CHANNELS
from shmbench.errors import ShmbenchError
from shmbench.limits import limit_of
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
        rule: when a single case is done.
        sampling: how much each process group measures.
        timeout_s: of one process group.
    """

    budget_s: float
    rule: StoppingRule = field(default_factory=StoppingRule)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    timeout_s: float = 30.0


@dataclass
class _Progress:
    """One case while the run goes on."""

    case: Case
    placement: Placement | None = None
    samples: list[float] = field(default_factory=list)  # of groups that can be trusted
    doubtful: list[float] = field(default_factory=list)
    group_flags: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    histogram: Histogram | None = None
    evidence: dict[str, Any] | None = None
    failure: Failure | None = None
    spent_s: float = 0.0
    decision: Decision = Decision.CONTINUE

    def take(self, report: TrialReport, seconds: float) -> None:
        """Add what one group gave."""
        self.spent_s += seconds
        if report.failure is not None or report.value is None:
            self.failure = report.failure
            return
        suspect = Flag.UNTRUSTED in report.flags
        (self.doubtful if suspect else self.samples).append(report.value)
        self.group_flags.update(flag for flag in report.flags if flag != Flag.UNTRUSTED)
        self.counters.update(report.counters)
        self.evidence = report.evidence
        if report.histogram is not None:
            histogram = Histogram.from_bytes(report.histogram)
            if self.histogram is None:
                self.histogram = histogram
            else:
                self.histogram.merge(histogram)

    @property
    def groups(self) -> int:
        return len(self.samples) + len(self.doubtful)

    def decide(self, rule: StoppingRule) -> None:
        """Is this case done? Disturbed groups are tried again, as often as there may be groups."""
        self.decision = rule.decide(self.samples, self.spent_s)
        if self.decision is Decision.CONTINUE and self.groups >= 2 * rule.max_groups:
            self.decision = Decision.MAX_GROUPS

    @property
    def done(self) -> bool:
        return self.failure is not None or self.decision is not Decision.CONTINUE

    def headline(self) -> tuple[list[float], list[Flag]]:
        """The samples that count, and UNTRUSTED where too many groups were disturbed."""
        if self.groups and len(self.doubtful) >= len(self.samples):
            return self.samples + self.doubtful, [Flag.UNTRUSTED]
        return self.samples, []

    def flags(self, rule: StoppingRule) -> list[str]:
        """All remarks about this case, in the order in which `Flag` has them."""
        samples, found = self.headline()
        found += rule.flags(samples, self.decision) if samples else []
        for flag, count in self.group_flags.items():
            if flag not in _ABOUT_A_GROUP or count >= _NOTICEABLE_SHARE * self.groups:
                found.append(_FLAGS[flag])
        if self.placement is not None and self.placement.oversubscribed:
            found.append(Flag.OVERSUBSCRIBED)
        return [str(flag) for flag in Flag if flag in found]


class Run:
    """One run of a plan: rounds over all cases, interleaved, until each is done or time is up.

    Args:
        cases: in the order in which each round takes them.
        explain: called before each trial with the share of the run that is done, and its label.
        checkpoint: called after each round; `results()` has what was measured until then.
        clock: seconds.
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
    ) -> None:
        self._effort = effort
        self._explain = explain
        self._checkpoint = checkpoint
        self._clock = clock
        self._cases = [_Progress(case) for case in cases]
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

    def measure(self, runner: TrialRunner) -> None:
        """Run trials until all cases are done.

        Raises:
            KeyboardInterrupt: as it came; `results()` has what was measured until then.
        """
        start = self._clock()
        rounds = 0
        while any(not progress.done for progress in self._cases):
            for progress in self._cases:
                spent = self._clock() - start
                if progress.done:
                    continue
                if rounds and spent >= self._effort.budget_s:
                    progress.decision = Decision.BUDGET
                    continue
                self._explain(self._share(spent), progress.case.label())
                self._try(progress, runner)
            rounds += 1
            self._checkpoint()

    def _try(self, progress: _Progress, runner: TrialRunner) -> None:
        assert progress.placement is not None
        before = self._clock()
        report = runner.run(
            Trial(
                progress.case,
                progress.placement.cpus,
                self._effort.sampling,
                self._effort.timeout_s,
            )
        )
        progress.take(report, self._clock() - before)
        progress.decide(self._effort.rule)

    def _share(self, spent_s: float) -> float:
        """How much of the run is done: by time, or by groups where that is further."""
        wanted = self._effort.rule.min_groups
        groups = sum(wanted if p.done else min(p.groups, wanted) for p in self._cases)
        by_groups = groups / (wanted * max(1, len(self._cases)))
        return min(1.0, max(by_groups, spent_s / self._effort.budget_s))

    def results(self) -> list[Result]:
        """A result for each case that was measured or failed, with its limit."""
        host = socket.gethostname()
        medians = {p.case: median(p.headline()[0]) for p in self._cases if p.groups}
        return [
            self._result(progress, host, medians)
            for progress in self._cases
            if progress.groups or progress.failure
        ]

    def _result(self, progress: _Progress, host: str, medians: dict[Case, float]) -> Result:
        case = progress.case
        workload = WORKLOADS.get(case.workload)
        samples, _ = progress.headline()
        middle = median(samples) if samples else None
        channel = CHANNELS.get(f"{case.driver}/{case.channel}") if case.channel else None
        moves = workload.moves_bytes and (channel is None or channel.delivers)
        moved = workload.bytes_per_operation(case) if moves else 0
        return Result(
            **msgspec.structs.asdict(case),
            host=host,
            samples=samples,
            median=middle,
            ci=list(bootstrap_median(samples)) if len(samples) > 1 else None,
            percentiles=(
                percentiles(progress.histogram, 1 / workload.operations(case))
                if progress.histogram is not None
                else None
            ),
            bytes_per_second=moved / middle if moved and middle else None,
            limit=self._limit(progress, middle, medians),
            counters={name: float(value) for name, value in progress.counters.items()},
            flags=progress.flags(self._effort.rule),
            error=progress.failure,
            operation=workload.operation,
            copies=channel.copies if channel else None,
            cpus=list(progress.placement.cpus) if progress.placement else [],
            evidence=progress.evidence,
            groups=progress.groups,
        )

    @staticmethod
    def _limit(
        progress: _Progress, middle: float | None, medians: dict[Case, float]
    ) -> Limit | None:
        if progress.placement is None or progress.placement.shares_cpu or middle is None:
            return None
        limit = limit_of(progress.case)
        if limit is None or limit.case not in medians:
            return None
        value = medians[limit.case] * limit.times
        return Limit(name=limit.name, value=value, ratio=middle / value)
