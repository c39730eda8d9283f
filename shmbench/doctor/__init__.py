"""What this node offers, what stands in the way of a good figure, and the remedy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from shmbench.doctor.check import Check
from shmbench.doctor.cpu import cpu_checks
from shmbench.doctor.kernel import kernel_checks
from shmbench.doctor.kinds import kind_checks
from shmbench.doctor.memory import memory_checks
from shmbench.doctor.mpi import mpi_checks
from shmbench.doctor.now import now_checks
from shmbench.machine import facts
from shmbench.measure.placement import read_topology

__all__ = ["Check", "as_dicts", "checks", "lines"]


def checks(root: Path = Path("/"), *, sample_s: float = 0.3) -> list[Check]:
    """Look at everything, once. Takes sample_s seconds and a little; leaves nothing behind.

    Args:
        root: where /proc, /sys and /dev/shm are looked for. What is probed rather than read
            (limits, kernel features, regions, channels) is always this machine's.
        sample_s: how long to watch who else uses the CPUs.
    """
    found = facts(root)
    topology = read_topology(root / "sys")
    return [
        *now_checks(topology, root, sample_s),  # first: the probes make a load of their own
        *cpu_checks(found, topology),
        *memory_checks(found, root),
        *kernel_checks(),
        *mpi_checks(),
        *kind_checks(),
    ]


def as_dicts(found: Iterable[Check]) -> list[dict[str, str | None]]:
    """The checks for --json: name, status, found, cost, remedy."""
    return [dataclasses.asdict(check) for check in found]


def lines(found: Iterable[Check]) -> list[str]:
    """The checks as plain text, one line each."""
    return [
        f"{check.status:<8}{check.name}: {check.found}"
        + (f"; cost: {check.cost}" if check.cost else "")
        + (f"; remedy: {check.remedy}" if check.remedy else "")
        for check in found
    ]
