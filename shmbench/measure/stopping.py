"""When a case has been measured often enough: a decision from its samples, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from shmbench.measure.flags import Flag
from shmbench.measure.statistics import bootstrap_median, median, relative_half_width

# Below this, not even the range of all samples covers the median in 95 % of runs: 1 - 2^(1-n).
_GROUPS_FOR_95_PERCENT = 6


class Decision(StrEnum):
    """What to do with a case after another of its process groups."""

    CONTINUE = "continue"
    NARROW = "narrow"
    BUDGET = "budget"
    MAX_GROUPS = "max_groups"


@dataclass(frozen=True)
class StoppingRule:
    """Ends a case at an interval that is narrow enough, at its budget, or at a number of groups.

    Attributes:
        min_groups: how many process groups are measured before the interval is looked at.
        max_groups: how many at most.
        target: half of the 95 % interval's width as a share of the median, that is narrow enough.
        budget_s: how long this case may take; it ends the case below min_groups too.
    """

    min_groups: int = 6
    max_groups: int = 20
    target: float = 0.02
    budget_s: float = float("inf")

    def is_narrow(self, samples: Sequence[float]) -> bool:
        """Is the interval of these samples' median within the target?"""
        return relative_half_width(bootstrap_median(samples), median(samples)) <= self.target

    def decide(self, samples: Sequence[float], spent_s: float) -> Decision:
        """What to do next.

        Args:
            samples: one value a process group that this case has been measured in.
            spent_s: the time that this case has taken until now.
        """
        if len(samples) >= self.min_groups and self.is_narrow(samples):
            return Decision.NARROW
        if len(samples) >= self.max_groups:
            return Decision.MAX_GROUPS
        if spent_s >= self.budget_s:
            return Decision.BUDGET
        return Decision.CONTINUE

    def flags(self, samples: Sequence[float], decision: Decision) -> list[Flag]:
        """What a result that ended by this decision must say about its interval."""
        found = []
        if decision is Decision.BUDGET:
            found.append(Flag.BUDGET)
        if samples and not self.is_narrow(samples):
            found.append(Flag.WIDE)
        if len(samples) < _GROUPS_FOR_95_PERCENT:
            found.append(Flag.FEW_GROUPS)
        return found
