"""How far apart the ranks' CPUs are: by what the first two hand over, before and after a sample.

A hypervisor moves virtual CPUs from one physical core to another, so the same two CPUs share a core
for some seconds, a cache for the next, and not even that for others: the same hand-over was seen to
take 25, 50 and 210 ns within a minute. A sample that was taken at another distance than most of the
run is one of another placement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from shmbench.group import Group
from shmbench.measure.statistics import median
from shmbench.native import loops

_APART_BYTES = 128  # two lines: adjacent ones may be fetched together
_ROUND_TRIPS = 300
_TRIES = 3
_WITHIN = 1.3  # times the usual one, or a part of it; distances are a factor of 2 apart and more


def hand_over_s(group: Group) -> float:
    """Collective: seconds that a cache line takes from rank 0 to rank 1, each on a CPU of its own.

    The fastest of three tries of 300 round trips; 0 in other ranks. Not part of any timing.
    """
    group.barrier()
    if group.rank > 1:
        return 0.0
    mine = group.scratch + group.rank * _APART_BYTES
    theirs = group.scratch + (1 - group.rank) * _APART_BYTES
    tries = [loops.hand_over(mine, theirs, _ROUND_TRIPS, group.rank == 0) for _ in range(_TRIES)]
    return min(tries) * 1e-9 / (2 * _ROUND_TRIPS)


def alike(one_s: float, other_s: float) -> bool:
    """Are these the hand-overs of one distance?"""
    return max(one_s, other_s) <= _WITHIN * min(one_s, other_s)


class Distances:
    """What the hand-overs of a run were, by the CPUs of the first two ranks."""

    def __init__(self) -> None:
        self._seen: defaultdict[tuple[int, ...], list[float]] = defaultdict(list)

    def add(self, cpus: Sequence[int], hand_overs_s: Sequence[float]) -> None:
        """Take the hand-overs around one sample."""
        self._seen[tuple(cpus[:2])] += hand_overs_s

    def usual_s(self, cpus: Sequence[int]) -> float | None:
        """The median over all samples between these CPUs; None where there are none."""
        seen = self._seen.get(tuple(cpus[:2]))
        return median(seen) if seen else None

    def is_usual(self, cpus: Sequence[int], hand_overs_s: Sequence[float]) -> bool:
        """Was this sample taken at the distance of most of the run?"""
        usual = self.usual_s(cpus)
        return usual is None or all(alike(usual, each) for each in hand_overs_s)
