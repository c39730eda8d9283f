"""One sample of a case: calibrate, warm up and measure batches in one fresh process group.

Every rank runs the same loop. After each batch the ranks exchange what they read; all decisions are
made from what was exchanged, so every rank comes to the same ones without a leader.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Protocol

import msgspec

from shmbench.group import Group
from shmbench.measure.counters import (
    CounterSource,
    CpuTimes,
    Delta,
    RankCounters,
    cpu_losses,
    disturbed,
    totals,
    wake_ns,
)
from shmbench.measure.flags import Flag
from shmbench.native.clock import monotonic_ns

_BATCHES_MIN = 3  # even when the group's time is over
_WARM_BATCHES = 3  # so many must agree
_LONG_ENOUGH = 0.8  # of options.batch_s
_GROWTH_MAX = 32  # from one calibrating batch to the next
_CALIBRATIONS_MAX = 16
_ITERATIONS_MAX = 10**9
_REPEATS_MAX = 5


class Subject(Protocol):
    """What is measured: a workload, or a script in the tests.

    Attributes:
        fixed_iterations: each batch has so many and there is no warm-up, because `before_batch`
            makes every batch begin alike; None: batches are calibrated.
        batches_together: where iterations are fixed, so many batches are measured, or a multiple,
            because each leaves behind what makes the next one faster or slower.
    """

    fixed_iterations: int | None
    batches_together: int

    def before_batch(self, iterations: int) -> None:
        """Collective and untimed: bring about the state that the next batch begins with."""

    def batch(self, iterations: int) -> int:
        """Collective: run the loop, and give the nanoseconds that it took in this rank."""


class SamplingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure in one process group.

    Attributes:
        batch_s: how long a batch shall last, unless a single iteration lasts longer.
        batches: how many undisturbed batches are wanted.
        retries: how many batches more there may be, to replace disturbed ones.
        warmup_batches: how many batches the warm-up may take.
        stable_share: how much the last three batches may differ when it ends.
        group_s: calibration and warm-up end after half of this time, and measuring at its end;
            but three batches are measured always, and where iterations are fixed, as many as
            belong together.
        iterations: each batch has so many, as other benchmarks do it; None: calibrated.
        warmup_iterations: where iterations are given, so many come before them, as one batch.
    """

    batch_s: float = 0.004
    batches: int = 10
    retries: int = 10
    warmup_batches: int = 10
    stable_share: float = 0.05
    group_s: float = 1.0
    iterations: int | None = None
    warmup_iterations: int = 0


class Batch(msgspec.Struct):
    """One timed batch.

    Attributes:
        elapsed_ns: by the timing rank's clock.
        flags: how it was disturbed; a batch that has any is left out of the headline.
        counters: summed over all ranks.
        rank_ns: by each rank's own clock.
    """

    elapsed_ns: int
    iterations: int
    flags: list[Flag]
    counters: dict[str, float]
    rank_ns: list[int] = []


class Sample(msgspec.Struct):
    """What one process group gave; the same in every rank.

    Attributes:
        seconds: of one iteration: the group's headline, see `group_median`.
        flags: about the headline.
        batches: those that were measured, disturbed ones included.
        counters: summed over ranks and batches, foreign CPU time and steal over the whole group;
            and how many batches there were and how many of them were disturbed.
        cpus: the CPU of each rank, as seen after the last batch.
        rank_seconds: as `seconds`, by each rank's own clock.
    """

    seconds: float
    flags: list[Flag]
    batches: list[Batch]
    counters: dict[str, float]
    cpus: list[int]
    rank_seconds: list[float] = []


class _Report(msgspec.Struct, array_like=True):
    """What one rank tells the others after a batch."""

    elapsed_ns: int
    now_ns: int
    delta: Delta


class _Loop:
    """Runs batches in all ranks at once, and keeps the group's time."""

    def __init__(
        self,
        group: Group,
        subject: Subject,
        timing_rank: int | None,
        clock: Callable[[], int],
        counters: CounterSource,
    ) -> None:
        self._group = group
        self._subject = subject
        self._timing_rank = timing_rank
        self._clock = clock
        self._counters = counters
        self._least_wake_ns = [float("inf")] * group.size
        self._started_ns: int | None = None
        # By the timing rank's clock, since the end of the first batch; with a fixed number of
        # iterations, since its beginning.
        self.spent_s = 0.0
        self.cpus: list[int] = []

    def run(self, iterations: int) -> Batch:
        """One batch, between two readings of the counters."""
        self._subject.before_batch(iterations)
        self._group.barrier()
        before = self._counters.read()
        elapsed_ns = self._subject.batch(iterations)
        after = self._counters.read()
        mine = _Report(elapsed_ns, self._clock(), Delta.between(before, after))
        items = self._group.allgather(msgspec.msgpack.encode(mine))
        return self._agree(iterations, [msgspec.msgpack.decode(i, type=_Report) for i in items])

    def _agree(self, iterations: int, reports: Sequence[_Report]) -> Batch:
        timing = (
            max(reports, key=lambda report: report.elapsed_ns)
            if self._timing_rank is None
            else reports[self._timing_rank]
        )
        if self._started_ns is None:
            self._started_ns = timing.now_ns
            if self._subject.fixed_iterations is not None:
                self._started_ns -= timing.elapsed_ns
        self.spent_s = (timing.now_ns - self._started_ns) * 1e-9
        deltas = [report.delta for report in reports]
        self.cpus = [delta.cpu_end for delta in deltas]
        self._least_wake_ns = [
            min(least, wake_ns(delta))
            for least, delta in zip(self._least_wake_ns, deltas, strict=True)
        ]
        flags = disturbed(deltas, self._least_wake_ns)
        by_rank = [report.elapsed_ns for report in reports]
        return Batch(timing.elapsed_ns, iterations, flags, totals(deltas), by_rank)


def _fastest_ns(loop: _Loop, iterations: int, long_ns: float) -> int:
    """How long a batch lasts, to see whether it is long enough.

    A rank that lost its CPU, or touched its memory for the first time, makes a batch look longer
    than it is. So one that seems long enough is repeated until one is undisturbed, and the shortest
    counts.
    """
    fastest_ns = max(1, loop.run(iterations).elapsed_ns)
    for _ in range(_REPEATS_MAX):
        if fastest_ns < long_ns:
            break
        batch = loop.run(iterations)
        fastest_ns = max(1, min(fastest_ns, batch.elapsed_ns))
        if not batch.flags:
            break
    return fastest_ns


def _calibrate(loop: _Loop, options: SamplingOptions) -> int:
    """How many iterations make a batch of about options.batch_s; at least one."""
    wanted_ns = options.batch_s * 1e9
    long_ns = _LONG_ENOUGH * wanted_ns
    iterations = 1
    for _ in range(_CALIBRATIONS_MAX):
        fastest_ns = _fastest_ns(loop, iterations, long_ns)
        if fastest_ns >= long_ns or loop.spent_s > options.group_s / 2:
            break
        growth = int(min(_GROWTH_MAX, max(2.0, wanted_ns / fastest_ns)))
        iterations = min(_ITERATIONS_MAX, iterations * growth)
    # Short batches may look too fast, where a transport takes some messages without waiting.
    return max(1, min(iterations, round(iterations * wanted_ns / fastest_ns)))


def _warm_up(loop: _Loop, iterations: int, options: SamplingOptions) -> bool:
    """Run batches until three undisturbed ones in a row agree; False where they don't in time."""
    recent: deque[int] = deque(maxlen=_WARM_BATCHES)
    settled = True
    for _ in range(options.warmup_batches):
        batch = loop.run(iterations)
        if not batch.flags:
            recent.append(batch.elapsed_ns)
            settled = max(recent) <= min(recent) * (1 + options.stable_share)
        if settled and len(recent) == _WARM_BATCHES:
            break
        if loop.spent_s > options.group_s / 2:
            break
    return settled


def _measure(
    loop: _Loop, iterations: int, options: SamplingOptions, batches_min: int, together: int = 1
) -> list[Batch]:
    """Batches until enough are undisturbed, the retries are used up, or the time is over.

    They may be a few more, so that their number is a multiple of `together`.
    """
    batches: list[Batch] = []
    undisturbed = 0
    while True:
        if len(batches) >= batches_min and len(batches) % together == 0:
            enough = undisturbed >= options.batches
            if enough or len(batches) >= options.batches + options.retries:
                break
            if loop.spent_s >= options.group_s:
                break
        batches.append(loop.run(iterations))
        undisturbed += not batches[-1].flags
    return batches


def group_median(batches: Sequence[Batch]) -> tuple[float, list[Flag]]:
    """The headline of a process group: the median over its undisturbed batches.

    Args:
        batches: at least one.

    Returns:
        Seconds per iteration, and the flags of all batches. Where fewer than half of the batches
        are undisturbed, the median is over all of them and UNTRUSTED is among the flags.
    """
    flags = sorted({flag for batch in batches for flag in batch.flags})
    kept = _kept(batches)
    if any(batch.flags for batch in kept):
        flags.append(Flag.UNTRUSTED)
    return median(batch.elapsed_ns / batch.iterations for batch in kept) * 1e-9, flags


def _kept(batches: Sequence[Batch]) -> list[Batch]:
    """Those that are undisturbed; all of them, where these are fewer than half."""
    kept = [batch for batch in batches if not batch.flags]
    return kept if 2 * len(kept) >= len(batches) else list(batches)


def _by_rank(batches: Sequence[Batch]) -> list[float]:
    """Seconds per iteration of each rank: the median over the batches that count."""
    times = [[ns / batch.iterations for ns in batch.rank_ns] for batch in _kept(batches)]
    return [median(of_rank) * 1e-9 for of_rank in zip(*times, strict=True)]


def sample(
    group: Group,
    subject: Subject,
    options: SamplingOptions,
    timing_rank: int | None = 0,
    clock: Callable[[], int] = monotonic_ns,
    counters: CounterSource | None = None,
) -> Sample:
    """Collective: measure one sample. Every rank calls it, and gets the same one.

    Args:
        group: the ranks; each is where it shall run already.
        subject: what is measured, in this rank.
        options: how much.
        timing_rank: whose nanoseconds count; None: those of the slowest rank.
        clock: nanoseconds; the group's time is kept by it.
        counters: what is read beside each batch; None for the calling thread's own.
    """
    if counters is None:
        with RankCounters() as own:
            return sample(group, subject, options, timing_rank, clock, own)
    loop = _Loop(group, subject, timing_rank, clock, counters)
    before = counters.read_cpu()
    if subject.fixed_iterations is not None:
        # A batch may take seconds then, and nothing is learnt from those before it.
        settled = True
        together = subject.batches_together
        batches = _measure(loop, subject.fixed_iterations, options, together, together)
    elif options.iterations is not None:
        settled = True
        if options.warmup_iterations:
            loop.run(options.warmup_iterations)
        batches = _measure(loop, options.iterations, options, 1)
    else:
        iterations = _calibrate(loop, options)
        settled = _warm_up(loop, iterations, options)
        batches = _measure(loop, iterations, options, _BATCHES_MIN)
    items = group.allgather(msgspec.msgpack.encode(counters.read_cpu().since(before)))
    losses, cpu_flags = cpu_losses([msgspec.msgpack.decode(i, type=CpuTimes) for i in items])
    seconds, flags = group_median(batches)
    if not settled:
        flags.append(Flag.UNSTABLE)
    summed = {name: sum(b.counters[name] for b in batches) for name in batches[0].counters}
    counted = {
        "batches": float(len(batches)),
        "disturbed_batches": float(sum(bool(batch.flags) for batch in batches)),
    }
    return Sample(
        seconds,
        flags + cpu_flags,
        batches,
        counted | summed | losses,
        loop.cpus,
        _by_rank(batches),
    )
