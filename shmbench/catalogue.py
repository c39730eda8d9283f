"""What `shmbench list` shows: every kind, whether this machine has it, and if not, the remedy."""

from __future__ import annotations

from typing import Any

from shmbench.channels import CHANNELS
from shmbench.errors import ShmbenchError, Unavailable
from shmbench.regions import REGIONS
from shmbench.registry import Registry
from shmbench.suites import SUITES
from shmbench.workloads import WORKLOADS
from shmbench.workloads.policies import POLICIES

Row = dict[str, str | bool | None]


def _row(name: str, summary: str, why: ShmbenchError | None = None) -> Row:
    return {
        "name": name,
        "available": why is None,
        "summary": summary,
        "reason": why.message if why else None,
        "remedy": why.remedy if why else None,
    }


def _summary(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _probed(registry: Registry[Any]) -> list[Row]:
    rows = []
    for name in registry.names():
        try:
            kind = registry.get(name)
            why: Unavailable | None = kind.probe()
            rows.append(_row(name, _summary(kind), why))
        except ShmbenchError as error:
            rows.append(_row(name, "", error))
    return rows


def _summarised(registry: Registry[Any]) -> list[Row]:
    return [_row(name, registry.get(name).summary) for name in registry.names()]


def catalogue() -> dict[str, list[Row]]:
    """Rows of name, available, summary, reason and remedy, by what they are."""
    return {
        "regions": _probed(REGIONS),
        "channels": _probed(CHANNELS),
        "policies": _summarised(POLICIES),
        "workloads": _summarised(WORKLOADS),
        "suites": [_row(name, suite.summary) for name, suite in SUITES.items()],
    }
