"""References of a site's file against the results of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shmbench.errors import UsageError
from shmbench.registry import nearest
from shmbench.results import Result
from shmbench.slurm.site import Reference
from shmbench.units import format_bytes, parse_bytes

_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_RATES = {"B/s": 1.0, "kB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12}
_LIMIT = "x"
_KEYS = (
    *("workload", "channel", "driver", "region", "pages", "policy", "cache", "placement"),
    *("variant", "launcher", "ranks"),
)


@dataclass(frozen=True)
class Outside:
    """A result that is out of its bounds.

    Attributes:
        value: what was measured, in the reference's unit; None where the case failed.
    """

    result: Result
    reference: Reference
    value: float | None

    def __str__(self) -> str:
        reference = self.reference
        low, high = bounds(reference)
        ends = [f"at least {low:.4g}"] if low is not None else []
        ends += [f"at most {high:.4g}"] if high is not None else []
        found = "no figure" if self.value is None else f"{self.value:.4g} {reference.unit}"
        wanted = f"{' and '.join(ends)} {reference.unit}"
        return f"{self.result.host}: {self.result.case().label()}: {found}, wanted {wanted}"


def bounds(reference: Reference) -> tuple[float | None, float | None]:
    """The lowest and the highest value, in the reference's unit; None for no bound."""
    low = None if reference.low is None else reference.value * (1 + reference.low)
    high = None if reference.high is None else reference.value * (1 + reference.high)
    return low, high


def check(references: Sequence[Reference]) -> None:
    """Refuse what can't be held against anything.

    Raises:
        UsageError: an unknown unit, no bound, or bounds on the wrong side of the value.
    """
    units = [*_SECONDS, *_RATES, _LIMIT]
    for number, reference in enumerate(references):
        where = f"references[{number}] ({reference.workload})"
        if reference.unit not in units:
            raise UsageError(
                f"{where}: unknown unit {reference.unit!r}", nearest(reference.unit, units)
            )
        if reference.low is None and reference.high is None:
            raise UsageError(f"{where} has no bound", "give low, high or both, such as high = 0.1")
        if (reference.low or 0) > 0 or (reference.high or 0) < 0 or reference.value <= 0:
            raise UsageError(
                f"{where}: bounds are fractions of a positive value, low <= 0 <= high",
                "write low = -0.1 for 10 % below, high = 0.1 for 10 % above",
            )
        if reference.size is not None:
            parse_bytes(reference.size)


def outside(
    references: Sequence[Reference], results: Iterable[Result]
) -> tuple[list[Outside], list[Reference]]:
    """Who falls out, and the references that no result answers to.

    Raises:
        UsageError: see `check`.
    """
    check(references)
    found: list[Outside] = []
    unanswered = list(references)
    for result in results:
        for reference in references:
            if not _concerns(reference, result):
                continue
            if reference in unanswered:
                unanswered.remove(reference)
            value = _value(reference, result)
            low, high = bounds(reference)
            below = value is not None and low is not None and value < low
            above = value is not None and high is not None and value > high
            if value is None or below or above:
                found.append(Outside(result, reference, value))
    return found, unanswered


def _concerns(reference: Reference, result: Result) -> bool:
    for key in _KEYS:
        wanted = getattr(reference, key)
        if wanted is not None and wanted != getattr(result, key):
            return False
    if reference.size is None:
        return True
    return result.message_bytes == parse_bytes(reference.size)


def _value(reference: Reference, result: Result) -> float | None:
    """The figure in the reference's unit; None where the case has none."""
    if result.error is not None or result.median is None:
        return None
    if reference.unit == _LIMIT:
        return result.limit.ratio if result.limit else None
    if reference.unit in _RATES:
        rate = result.bytes_per_second
        return None if rate is None else rate / _RATES[reference.unit]
    return result.median / _SECONDS[reference.unit]


def label(reference: Reference) -> str:
    """What a reference is about."""
    named = [str(value) for key in _KEYS if (value := getattr(reference, key)) is not None]
    size = [format_bytes(parse_bytes(reference.size))] if reference.size else []
    return " ".join([*named, *size])
