"""Is this machine quiet enough to measure on? What is looked at before a history is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shmbench.doctor.check import Check
from shmbench.doctor.cpu import cpu_checks
from shmbench.doctor.now import now_checks
from shmbench.machine import facts
from shmbench.measure.placement import read_topology

# Of the doctor's, those that change from one run to the next, or make one unlike the next.
_ABOUT_NOISE = frozenset({"governor", "boost", "cpu quota"})
_SAMPLE_S = 1.0
_LOOK_EVERY_S = 5.0


def look(root: Path = Path("/"), sample_s: float = _SAMPLE_S) -> list[Check]:
    """Load, steal and strangers of the next sample_s seconds; frequency and quota of the CPUs."""
    topology = read_topology(root / "sys")
    lasting = [each for each in cpu_checks(facts(root), topology) if each.name in _ABOUT_NOISE]
    return [*now_checks(topology, root, sample_s), *lasting]


def noisy(found: list[Check]) -> list[Check]:
    """Those that stand in the way."""
    return [check for check in found if check.status == "warn"]


def wait_until_quiet(
    wait_s: float,
    look: Callable[[], list[Check]] = look,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Check]:
    """Look again and again, until nothing stands in the way or time is up; gives the last look."""
    end = clock() + wait_s
    while True:
        found = look()
        remaining = end - clock()
        if not noisy(found) or remaining <= 0:
            return found
        sleep(min(_LOOK_EVERY_S, remaining))
