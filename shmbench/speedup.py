"""How many times faster than the kernel's default a policy is, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

from shmbench.measure.flags import Flag
from shmbench.measure.statistics import bootstrap_ratio
from shmbench.results import Result

DEFAULT = "none"
LIMIT = "mapped"  # a mapping that is there already: no way to read a file, but a limit
# With fewer process groups the interval would be their range, and that says next to nothing.
_SAMPLES_MIN = 3


@dataclass(frozen=True)
class Speedup:
    """A policy against the kernel's default: time of the default over time of the policy.

    Attributes:
        ratio: of the medians; above 1.0 the policy is faster.
        interval: 95 % of the ratio; None where there are too few process groups to tell.
        trusted: whether neither of the two is flagged `untrusted`.
    """

    ratio: float
    interval: tuple[float, float] | None
    trusted: bool

    @property
    def sure(self) -> bool:
        """Faster than the default for sure; without an interval, as far as one can tell."""
        return self.trusted and (self.interval[0] if self.interval else self.ratio) > 1.0


def speedup(base: Result, result: Result) -> Speedup | None:
    """What a result is against the kernel's default of the same run; None where one failed."""
    if not base.median or not result.median:
        return None
    return Speedup(
        base.median / result.median,
        _interval(base, result),
        Flag.UNTRUSTED not in (*base.flags, *result.flags),
    )


def _interval(base: Result, result: Result) -> tuple[float, float] | None:
    if min(len(base.samples), len(result.samples)) < _SAMPLES_MIN:
        return None
    return bootstrap_ratio(result.samples, base.samples)
