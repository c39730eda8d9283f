"""One line of the doctor's: what was found, and if it is not as it should be, cost and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "info", "warn", "missing"]


@dataclass(frozen=True)
class Check:
    """What one look at the machine gave.

    Attributes:
        name: what was looked at.
        status: "ok"; "info" (good to know, nothing to cure); "warn" (it spoils figures);
            "missing" (something can't be measured).
        found: what is there.
        cost: what it does to the figures; None unless warn or missing.
        remedy: how to cure it; None unless warn or missing.
    """

    name: str
    status: Status
    found: str
    cost: str | None = None
    remedy: str | None = None


def ok(name: str, found: str) -> Check:
    return Check(name, "ok", found)


def info(name: str, found: str) -> Check:
    return Check(name, "info", found)


def warn(name: str, found: str, cost: str, remedy: str) -> Check:
    return Check(name, "warn", found, cost, remedy)


def missing(name: str, found: str, cost: str, remedy: str) -> Check:
    return Check(name, "missing", found, cost, remedy)
