"""What is read beside each batch in each rank, and what it says about the batch.

The scheduler's statistics, on a quiet machine and with a CPU hog on one rank's CPU, say:

- A rank alone on its CPU hardly ever waits on the run queue (0 to 1 % of a batch), whether it spins
  or blocks; with a hog there it waits for 30 to 50 %. A blocking rank shows no involuntary switch
  at all then: it is on the run queue since it woke up. So it is the wait that counts.
- Ranks that share a CPU always wait, for each other. There, it is the CPU time that none of them
  got which counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Protocol, Self

import msgspec

from shmbench.measure.flags import Flag
from shmbench.native.clock import monotonic_ns
from shmbench.native.process import ThreadUsage, current_cpu, thread_usage

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_STAT_BYTES = 1 << 18  # the lines of some thousand CPUs; what follows them isn't read

# The share of a batch that may be lost to others before the batch counts as disturbed. It is wider
# where ranks share a CPU: the others also run in a rank's window before and after their own.
_WAIT_SHARE = 0.02
_SHARED_LOSS_SHARE = 0.05
_WAKE_NS_MAX = 2500.0


class Counts(msgspec.Struct, array_like=True):
    """What a rank's thread has used until `at_ns` (CLOCK_MONOTONIC).

    Attributes:
        run_delay_ns: how long it has waited on a run queue; None where the kernel doesn't tell.
    """

    at_ns: int
    cpu: int
    run_delay_ns: int | None
    usage: ThreadUsage


class Delta(msgspec.Struct, array_like=True):
    """What one rank used during one batch."""

    begin_ns: int
    end_ns: int
    cpu_begin: int
    cpu_end: int
    run_delay_ns: int | None
    usage: ThreadUsage

    @classmethod
    def between(cls, before: Counts, after: Counts) -> Self:
        """The difference of two readings."""
        delay_ns = None
        if before.run_delay_ns is not None and after.run_delay_ns is not None:
            delay_ns = after.run_delay_ns - before.run_delay_ns
        used = ThreadUsage(*(b - a for a, b in zip(before.usage, after.usage, strict=True)))
        return cls(before.at_ns, after.at_ns, before.cpu, after.cpu, delay_ns, used)


class CpuTimes(msgspec.Struct, array_like=True):
    """A CPU's time and the thread's own; busy and steal have the resolution of USER_HZ (10 ms)."""

    cpu: int
    at_ns: int
    busy_ns: int
    steal_ns: int
    own_ns: int

    def since(self, earlier: CpuTimes) -> CpuTimes:
        """The differences, `at_ns` included; nothing where the rank has changed its CPU."""
        if earlier.cpu != self.cpu:
            return CpuTimes(self.cpu, 0, 0, 0, 0)
        return CpuTimes(
            self.cpu,
            self.at_ns - earlier.at_ns,
            self.busy_ns - earlier.busy_ns,
            self.steal_ns - earlier.steal_ns,
            self.own_ns - earlier.own_ns,
        )


class CounterSource(Protocol):
    """Where the sampling loop reads from."""

    def read(self) -> Counts:
        """The calling thread's counts now."""

    def read_cpu(self) -> CpuTimes:
        """The times of the CPU on which the calling thread runs."""


class RankCounters:
    """Reads the calling thread's counters; opened by that thread, after the fork.

    Args:
        schedstat: per-thread CPU time, run delay and time slices (proc(5)); may be missing.
        stat: the CPUs' times by USER_HZ (proc_stat(5)).
        usage: what the thread has used.
        clock: nanoseconds.
    """

    def __init__(
        self,
        schedstat: str = "/proc/thread-self/schedstat",
        stat: str = "/proc/stat",
        usage: Callable[[], ThreadUsage] = thread_usage,
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._usage = usage
        self._clock = clock
        self._stat = os.open(stat, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._schedstat: int | None = os.open(schedstat, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._schedstat = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close both files."""
        os.close(self._stat)
        if self._schedstat is not None:
            os.close(self._schedstat)

    def read(self) -> Counts:
        """The calling thread's counts now; takes a few microseconds."""
        delay_ns = self._run_delay_ns()
        return Counts(self._clock(), current_cpu(), delay_ns, self._usage())

    def _run_delay_ns(self) -> int | None:
        if self._schedstat is None:
            return None
        _, delay_ns, slices = os.pread(self._schedstat, 128, 0).split()
        return int(delay_ns) if slices != b"0" else None  # "0 0 0": not compiled into the kernel

    def read_cpu(self) -> CpuTimes:
        """The times of the CPU on which the calling thread runs; zero where they aren't listed."""
        cpu = current_cpu()
        own_ns = self._usage().cpu_ns
        name = b"cpu%d" % cpu
        for line in os.pread(self._stat, _STAT_BYTES, 0).splitlines():
            label, *fields = line.split()
            if label == name:
                user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, fields)
                busy = user + nice + system + irq + softirq
                return CpuTimes(cpu, self._clock(), busy * _TICK_NS, steal * _TICK_NS, own_ns)
        return CpuTimes(cpu, self._clock(), 0, 0, own_ns)


def totals(deltas: Sequence[Delta]) -> dict[str, float]:
    """The counters of one batch, summed over its ranks, by the names that results have."""
    return {
        "voluntary_switches": sum(delta.usage.voluntary_switches for delta in deltas),
        "involuntary_switches": sum(delta.usage.involuntary_switches for delta in deltas),
        "minor_faults": sum(delta.usage.minor_faults for delta in deltas),
        "major_faults": sum(delta.usage.major_faults for delta in deltas),
        "run_delay_ns": sum(delta.run_delay_ns or 0 for delta in deltas),
    }


def wake_ns(delta: Delta) -> float:
    """The run delay of one of the batch's wake-ups, in nanoseconds; infinite where there are few.

    Some kernels count a CPU's way out of idle as run delay of the woken thread. So each wake-up is
    granted twice of what it cost in the best batch until now; see `disturbed`.
    """
    if delta.run_delay_ns is None or delta.usage.voluntary_switches < 20:
        return float("inf")
    return delta.run_delay_ns / delta.usage.voluntary_switches


def disturbed(deltas: Sequence[Delta], least_wake_ns: Sequence[float]) -> list[Flag]:
    """Was this batch disturbed, and how?

    Args:
        deltas: one a rank, of the same batch.
        least_wake_ns: each rank's smallest `wake_ns` until now.

    Returns:
        PREEMPTED: others ran on a rank's CPU while the rank had something to do. MOVED: a rank
        began on one CPU and ended on another. Empty for a batch that can be trusted.
    """
    found = []
    ranks = sorted(zip(deltas, least_wake_ns, strict=True), key=lambda rank: rank[0].cpu_end)
    by_cpu = [list(same) for _, same in groupby(ranks, key=lambda rank: rank[0].cpu_end)]
    for same in by_cpu:
        if len(same) == 1:
            hit = _waited(*same[0])
        else:
            hit = _lost_to_others([delta for delta, _ in same], all_ranks=len(by_cpu) == 1)
        if hit:
            found = [Flag.PREEMPTED]
    if any(delta.cpu_begin != delta.cpu_end for delta in deltas):
        found.append(Flag.MOVED)
    return found


def _waited(delta: Delta, least_wake_ns: float) -> bool:
    """For a rank alone on its CPU: whoever made it wait is none of ours."""
    if delta.run_delay_ns is None:
        return delta.usage.involuntary_switches > 0
    granted_ns = 2 * min(least_wake_ns, _WAKE_NS_MAX) * delta.usage.voluntary_switches
    return delta.run_delay_ns - granted_ns > _WAIT_SHARE * (delta.end_ns - delta.begin_ns)


def _lost_to_others(deltas: Sequence[Delta], all_ranks: bool) -> bool:
    """For ranks that share a CPU: they wait for each other, so look at what none of them got."""
    window_ns = max(d.end_ns - d.begin_ns for d in deltas)
    own_ns = sum(d.usage.cpu_ns for d in deltas)
    if all_ranks or not any(d.usage.voluntary_switches for d in deltas):
        # Somebody has the message, or spins: this CPU was never idle.
        lost_ns = window_ns - own_ns
    else:
        # It may have been idle; but a rank waits no longer than its peers run, unless others do.
        lost_ns = max((d.run_delay_ns or 0) - (own_ns - d.usage.cpu_ns) for d in deltas)
    return lost_ns > _SHARED_LOSS_SHARE * window_ns


def cpu_losses(uses: Sequence[CpuTimes]) -> tuple[dict[str, float], list[Flag]]:
    """What others took from the ranks' CPUs over a whole process group.

    A figure may be fine all the same: the batches that others hit are left out of it. The margin is
    wide, because USER_HZ is coarse against a group of some hundred milliseconds.

    Args:
        uses: one a rank: `CpuTimes.since` over the group.

    Returns:
        The nanoseconds, as counters "foreign_cpu_ns" and "steal_ns" summed over CPUs; and
        FOREIGN_CPU and STEAL where they are noticeable.
    """
    found: dict[Flag, None] = {}
    foreign_sum_ns = steal_sum_ns = 0
    for _, same in groupby(sorted(uses, key=attrgetter("cpu")), key=attrgetter("cpu")):
        ranks = list(same)
        elapsed_ns = max(use.at_ns for use in ranks)
        foreign_ns = max(use.busy_ns for use in ranks) - sum(use.own_ns for use in ranks)
        steal_ns = max(use.steal_ns for use in ranks)
        if foreign_ns > 3 * _TICK_NS + elapsed_ns // 10:
            found[Flag.FOREIGN_CPU] = None
        if steal_ns > _TICK_NS + elapsed_ns // 50:
            found[Flag.STEAL] = None
        foreign_sum_ns += max(0, foreign_ns)
        steal_sum_ns += steal_ns
    return {"foreign_cpu_ns": foreign_sum_ns, "steal_ns": steal_sum_ns}, list(found)
