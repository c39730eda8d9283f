"""Has it become slower? Two result files, case by case.

One sample is the median of one fresh process group, so the samples of a case are independent, but
few (5 to 20), while a run has up to a hundred cases, on a machine that others use too. A plain 95 %
bootstrap interval a case would cry wolf in almost every comparison: it is too narrow for few
groups, it knows nothing of what moves a whole run, and it is asked a hundred times. So the rule is:

1. The figure of a case is r = log(median of the new samples / median of the base samples).
2. Its standard error is that of the bootstrap over groups in each run, and, added to it, the
   scatter between runs, which no single run shows: a run as a whole may lie off by
   `RUN_SHARE` of the variance between its groups, and where at least `MANY_CASES` cases were
   compared, by as much as the cases scatter among each other (the shortest interval that
   holds half of them; a change that hits many cases is not scatter, hence at most `SCATTER_MAX`).
3. The interval is r plus and minus that error times Student's t for the number of groups, at a
   confidence that is corrected for the number of cases (Bonferroni): all intervals of a comparison
   hold at once with the confidence asked for.
4. A case has to be worse both as measured and with the drift of the machine taken out. Where both
   runs have the limit beside each sample, the drift is taken out sample by sample: the steady
   figure is the same r, of the ratios to the limit. Elsewhere it is r less the drift: the ratio of
   the limits, or the median ratio of all other cases where there are at least `MANY_CASES` of
   them, or else the median of the limits' ratios that there are; a limit is a single figure then,
   so it is taken to scatter between runs as the cases do.
5. Worse (or better) is what lies beyond the threshold, and whose interval does not hold 1, by both;
   except that of figures with a limit beside each sample only the surer one has to be significant:
   the ratio to the limit on a machine that changes its speed; the figure as measured where its
   interval is the shorter one, as it is for a transport that has little to do with its limit, and
   the limit itself is what it was.
   What lies beyond the threshold otherwise is undecided, and so is what a run itself called
   untrusted. The rest is no change.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shmbench import machine
from shmbench.cases import Case
from shmbench.errors import UsageError
from shmbench.measure.distance import alike
from shmbench.results import Limit, Result, ResultFile

Direction = Literal[
    "worse", "better", "no change", "undecided", "only in base", "only in new", "failed"
]

Key = tuple[Case, int]  # a case, and its turn where a run has it more than once

RESAMPLES = 2000
RUN_SHARE = 0.5
MANY_CASES = 8
SCATTER_MAX = 0.05


@dataclass(frozen=True)
class Row:
    """One case in both runs.

    Attributes:
        base: median in the base run, seconds per operation; None where it has none.
        new: the same in the new run.
        ratio: new over base; above 1 is slower.
        interval: of the ratio; simultaneous with those of the other rows.
        drift: how much slower the machine itself was in the new run, by this case's measure.
        effect_size: Cliff's delta: of all pairs of groups, the share in which the new one is
            slower, less the share in which it is faster; 1 where the two don't even overlap.
        reason: why there is no clear verdict, one line; empty where there is.
    """

    case: Case
    direction: Direction
    base: float | None = None
    new: float | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    drift: float | None = None
    effect_size: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """All cases of two runs.

    Attributes:
        rows: in the order of the new run, then what is only in the base.
        drift: the median ratio over all cases; None where none could be compared.
        causes: what else changed between the runs (kernel, libraries, settings), one line each.
    """

    rows: list[Row]
    confidence: float
    threshold: float
    drift: float | None
    causes: list[str]

    def count(self) -> Counter[Direction]:
        """How many rows went which way."""
        return Counter(row.direction for row in self.rows)

    @property
    def regressions(self) -> list[Row]:
        """What is significantly worse, and what was measured in the base but failed now."""
        return [
            row
            for row in self.rows
            if row.direction == "worse" or (row.direction == "failed" and row.base is not None)
        ]


def compare(
    base: ResultFile,
    new: ResultFile,
    *,
    confidence: float = 0.95,
    threshold: float = 0.05,
    other_machine: bool = False,
) -> Comparison:
    """Compare two runs by the rule above.

    Args:
        confidence: of all intervals together.
        threshold: relative change below which nothing is worse or better; 0.05 is 5 %.
        other_machine: compare although the runs are from different machines.

    Raises:
        UsageError: the machines differ, or confidence or threshold make no sense.
    """
    check_options(confidence, threshold)
    old, now = by_case(base), by_case(new)
    pairs = pair_up(old, now, confidence)
    return Comparison(
        rows=[
            *(
                pairs[key].row(threshold) if key in pairs else single(result, "only in new")
                for key, result in now.items()
            ),
            *(single(result, "only in base") for key, result in old.items() if key not in now),
        ],
        confidence=confidence,
        threshold=threshold,
        drift=median_ratio([pair.shift for pair in pairs.values() if pair.comparable]),
        causes=causes_of(base, new, other_machine),
    )


def check_options(confidence: float, threshold: float) -> None:
    """Refuse with a UsageError what makes no sense."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence}", "give a number between 0 and 1, like 0.95")
    if not 0 <= threshold < math.inf:
        raise UsageError(f"threshold is {threshold}", "give a ratio from 0 on, like 0.05 for 5 %")


def causes_of(base: ResultFile, new: ResultFile, other_machine: bool) -> list[str]:
    """What else changed between the runs; a UsageError where the machine did, unless allowed."""
    differences = machine.differences(base.machine, new.machine)
    if differences and not other_machine:
        raise UsageError(
            f"the runs are from different machines: {', '.join(differences)}",
            "compare them all the same with: --other-machine",
        )
    return [*differences, *machine.changes(base.machine, new.machine)]


def by_case(file: ResultFile) -> dict[Key, Result]:
    """Results by their case; a case that was measured twice is told apart by its turn."""
    turns: Counter[Case] = Counter()
    found = {}
    for result in file.results:
        case = result.case()
        found[case, turns[case]] = result
        turns[case] += 1
    return found


def single(result: Result, direction: Direction) -> Row:
    """The row of a case that one run has only."""
    median = result.median
    if direction == "only in new":
        return Row(case=result.case(), direction=direction, new=median)
    return Row(case=result.case(), direction=direction, base=median)


class Pair:
    """A case that both runs have.

    Attributes:
        comparable: both have a figure; without, there is nothing of what follows.
        shift: log of new over base, medians of groups.
        drift: log of how much slower the machine was, by this case's measure; see `pair_up`.
    """

    def __init__(self, base: Result, new: Result) -> None:
        self.base = base
        self.new = new
        self.comparable = has_figure(base) and has_figure(new)
        # Set by _judge_together:
        self.half_width = math.inf  # of the interval of shift
        self.half_width_steady = math.inf  # of the interval of shift - drift
        self.drift = 0.0
        if self.comparable:
            self.samples = [np.log(np.array(result.samples)) for result in (base, new)]
            self.shift = _shift(self.samples)
            self.to_limit = self._ratios_to_limit()

    @property
    def groups(self) -> int:
        """Process groups in the run that has fewer."""
        return min(len(samples) for samples in self.samples)

    @property
    def untrusted(self) -> str:
        """The run that calls its own figure untrusted; empty where neither does."""
        for run, result in (("new", self.new), ("base", self.base)):
            if "untrusted" in result.flags:
                return run
        return ""

    @property
    def moved(self) -> str:
        """How much further apart the CPUs were in the new run; empty where they were not."""
        base, new = self.base.hand_over, self.new.hand_over
        if not base or not new or alike(base, new):
            return ""
        moved = f"the CPUs were {new / base:.2g} times as far apart as in the base run"
        return f"{moved}: a hand-over took {1e9 * new:.0f} ns, not {1e9 * base:.0f} ns"

    def _same_limit(self) -> tuple[Limit, Limit] | None:
        """The limit in both runs; None where they don't state the same one."""
        base, new = self.base.limit, self.new.limit
        if base is None or new is None or base.name != new.name:
            return None
        return (base, new) if base.value > 0 and new.value > 0 else None

    def _ratios_to_limit(self) -> list[NDArray[np.float64]] | None:
        """By run, the log of each sample over the limit beside it; None where one has none."""
        limits = self._same_limit()
        if limits is None:
            return None
        for samples, limit in zip(self.samples, limits, strict=True):
            if len(limit.samples) != len(samples) or min(limit.samples) <= 0:
                return None
        return [
            samples - np.log(np.array(limit.samples))
            for samples, limit in zip(self.samples, limits, strict=True)
        ]

    def limit_drift(self) -> float | None:
        """How much slower, as a log ratio, this case's limit was in the new run."""
        if self.to_limit is not None:
            return self.shift - _shift(self.to_limit)
        limits = self._same_limit()
        return math.log(limits[1].value / limits[0].value) if limits is not None else None

    def row(self, threshold: float) -> Row:
        case = self.new.case()
        base, new = self.base.median, self.new.median
        if not self.comparable:
            return Row(case=case, direction="failed", base=base, new=new, reason=self.failure())
        direction, reason = self._verdict(threshold)
        older, newer = self.samples
        return Row(
            case=case,
            direction=direction,
            base=base,
            new=new,
            ratio=math.exp(self.shift),
            interval=(
                (math.exp(self.shift - self.half_width), math.exp(self.shift + self.half_width))
                if math.isfinite(self.half_width)
                else None
            ),
            drift=math.exp(self.drift),
            effect_size=float(np.sign(newer[:, None] - older[None, :]).mean()),
            reason=reason,
        )

    def failure(self) -> str:
        """Why there is no figure in one of them."""
        for run, result in (("new", self.new), ("base", self.base)):
            if result.error is not None:
                return f"{run}: {result.error.message}"
        return "no samples, or a median that is not positive"

    def _verdict(self, threshold: float) -> tuple[Direction, str]:
        if self.untrusted:
            return "undecided", f"the {self.untrusted} run calls its own figure untrusted"
        beyond = math.log1p(threshold)
        if abs(self.shift) <= beyond:
            return "no change", ""
        if math.isinf(self.half_width):
            return "undecided", f"needs at least 2 process groups a run, has {self.groups}"
        return judge(
            self.shift,
            self.drift,
            (self.half_width, self.half_width_steady),
            beyond,
            surer_one=self.to_limit is not None,
            moved=self.moved,
        )


def judge(
    shift: float,
    drift: float,
    half_widths: tuple[float, float],
    beyond: float,
    *,
    surer_one: bool,
    moved: str = "",
) -> tuple[Direction, str]:
    """Rule 5, of a shift that is beyond the threshold: the direction, and why it is undecided.

    Args:
        half_widths: of the intervals of shift, and of shift less drift.
        beyond: the threshold, as a log ratio.
        surer_one: only the surer of the two has to be significant.
        moved: what to say instead of a drift, where it is known.
    """
    # Towards worse, both have to be above; towards better, both below.
    sign = math.copysign(1.0, shift)
    steady = sign * (shift - drift)
    sure, sure_steady = abs(shift) > half_widths[0], steady > half_widths[1]
    if surer_one:
        as_measured = half_widths[0] < half_widths[1] and abs(drift) <= beyond
        sure = sure_steady = sure if as_measured else sure_steady
    if steady <= beyond:
        drifted = f"not beyond the machine's own drift of {math.exp(drift):.2f}x"
        return "undecided", moved or drifted
    if not (sure and sure_steady):
        return "undecided", "within the noise of these runs"
    return ("worse" if sign > 0 else "better"), ""


def has_figure(result: Result) -> bool:
    """Did the case come to an end, with a figure that ratios can be made of?"""
    return (
        result.error is None
        and result.median is not None
        and len(result.samples) > 0
        and min(result.samples) > 0
    )


def pair_up(base: dict[Key, Result], new: dict[Key, Result], confidence: float) -> dict[Key, Pair]:
    """The cases that both runs have, with drift and intervals that hold together."""
    found = {key: Pair(base[key], result) for key, result in new.items() if key in base}
    _judge_together([pair for pair in found.values() if pair.comparable], confidence)
    return found


def _judge_together(pairs: list[Pair], confidence: float) -> None:
    """Set drift and the half-width of the interval in every pair."""
    if not pairs:
        return
    shifts = np.array([pair.shift for pair in pairs])
    scatter = min(_scatter(shifts), SCATTER_MAX) if len(pairs) >= MANY_CASES else 0.0
    limits = [drift for pair in pairs if (drift := pair.limit_drift()) is not None]
    each = of_each(confidence, len(pairs))
    for index, pair in enumerate(pairs):
        others = np.delete(shifts, index)
        limit_drift = pair.limit_drift()
        if limit_drift is not None:
            pair.drift = limit_drift
        elif len(others) >= MANY_CASES:
            pair.drift = float(np.median(others))
        elif limits:
            pair.drift = float(np.median(limits))
        if pair.groups < 2:
            continue
        quantile = student_t(each, sum(len(samples) - 1 for samples in pair.samples))
        variance = _variance(pair.samples, scatter)
        pair.half_width = quantile * math.sqrt(variance)
        if pair.to_limit is not None:
            variance = _variance(pair.to_limit, scatter)
        elif limit_drift is not None:
            variance += scatter**2
        pair.half_width_steady = quantile * math.sqrt(variance)


def of_each(confidence: float, cases: int) -> float:
    """The confidence of each interval, so that all hold together (Bonferroni)."""
    return 1 - (1 - confidence) / cases


def _shift(runs: list[NDArray[np.float64]]) -> float:
    return float(np.median(runs[1]) - np.median(runs[0]))


def _variance(runs: list[NDArray[np.float64]], scatter: float) -> float:
    """Of the shift between two runs' medians; between runs it is `scatter` at least."""
    within = sum(median_variance(samples) for samples in runs)
    between = RUN_SHARE * sum(_robust_variance(samples) for samples in runs)
    return within + max(between, scatter**2)


def median_ratio(shifts: list[float]) -> float | None:
    """Of log ratios; None where there are none."""
    return math.exp(float(np.median(shifts))) if shifts else None


def _scatter(shifts: NDArray[np.float64]) -> float:
    """Standard deviation of the middle half, from the shortest interval that holds half of them."""
    ordered = np.sort(shifts)
    half = len(ordered) // 2
    return float((ordered[half:] - ordered[: len(ordered) - half]).min()) / 2 * 1.4826


def _robust_variance(samples: NDArray[np.float64]) -> float:
    """Of one group, by the median absolute deviation, with its correction for few samples."""
    count = len(samples)
    deviation = float(np.median(np.abs(samples - np.median(samples))))
    return (1.4826 * count / (count - 0.8) * deviation) ** 2


def median_variance(samples: NDArray[np.float64]) -> float:
    """Of the median, by bootstrap over groups."""
    ordered = np.sort(samples)
    low, high = _resampled_middles(len(samples))
    return float(((ordered[low] + ordered[high]) / 2).var())


@functools.cache
def _resampled_middles(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which ordered samples the median of each resample lies between.

    It depends on the count alone, so the resamples are drawn once, and the same for every case.
    """
    drawn = np.random.default_rng(count).integers(0, count, (RESAMPLES, count))
    drawn.sort(axis=1)
    return drawn[:, (count - 1) // 2], drawn[:, count // 2]


@functools.cache
def student_t(confidence: float, degrees: int) -> float:
    """Two-sided quantile of Student's t, for whole degrees of freedom.

    Source: the probability is the finite series 26.7.3 and 26.7.4 of Abramowitz and Stegun,
    Handbook of Mathematical Functions; the quantile is found by bisection.
    """
    low, high = 0.0, 1e9
    for _ in range(120):
        middle = (low + high) / 2
        if _student_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return high


def _student_probability(t: float, degrees: int) -> float:
    """That a variable of this distribution lies between -t and t."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for step in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
