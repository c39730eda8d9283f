"""Policies against the kernel's default: a row an order of reading and its file, a column a policy.

Drivers never share a map. What is not in the map is a row without the default's own figure: there
is nothing to compare with then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from shmbench.cases import Case
from shmbench.channels import Driver
from shmbench.measure.flags import Flag
from shmbench.report import text
from shmbench.results import Result
from shmbench.speedup import DEFAULT, LIMIT, Speedup, speedup
from shmbench.units import format_bytes
from shmbench.workloads.policies import POLICIES

AUTO = "auto"
# auto is to be no slower than the default, and near the best that somebody could have chosen.
AUTO_LEAST, AUTO_LEAST_OF_BEST = 0.95, 0.85
_BEHIND_PERCENT = 100 * (1 - AUTO_LEAST_OF_BEST)

BEST, SLOWER, BEHIND, FLAGGED, UNTRUSTED = "★", "▼", "▽", "*", "?"
MARKS = (
    f"{BEST} the fastest of those that are faster than the default for sure, else the default; "
    f"{SLOWER} auto is below {AUTO_LEAST} of the default; {BEHIND} auto is more than "
    f"{_BEHIND_PERCENT:.0f} % behind the best; {FLAGGED} flagged, {UNTRUSTED} untrusted: "
    "it or the default"
)

# What tells two rows apart that are alike in all that a row's name always has.
_FURTHER: tuple[Callable[[Result], str], ...] = (
    lambda result: f"in {result.directory}" if result.directory else "",
    lambda result: f"pages {result.pages}" if result.pages else "",
    lambda result: f"NUMA memory {result.numa}" if result.numa else "",
    lambda result: f"{result.ranks} rank{'s' if result.ranks > 1 else ''}",
    lambda result: result.placement,
    lambda result: "by MPI" if result.launcher == "mpi" else "",
)


class Cell(NamedTuple):
    """A policy's figure in a row.

    Attributes:
        speedup: None where it failed.
        flags: its own and the default's, but those that all of the map has.
    """

    result: Result
    speedup: Speedup | None
    flags: list[str]


class Remark(NamedTuple):
    """Why `auto` is not good enough in a row, and the mark that says so."""

    mark: str
    why: str


@dataclass(frozen=True)
class Row:
    """One order of reading, over one file.

    Attributes:
        what: workload, variant and the length of an access.
        where: cache state, file system and size, and what else tells it from other rows.
        base: the kernel's default.
        cells: by policy, the default's own among them.
        best: the fastest policy, of those that are faster than the default for sure; else the
            default; None where the default's figure is untrusted. A limit is none.
        remark: on `auto`; None where it is good enough, or nothing can be said.
    """

    what: str
    where: str
    base: Result
    cells: dict[str, Cell]
    best: str | None
    remark: Remark | None

    @property
    def name(self) -> str:
        """All of it, in one line."""
        return f"{self.what}, {self.where}"


@dataclass(frozen=True)
class PolicyMap:
    """All rows of one driver.

    Attributes:
        policies: those that any row has, in the registry's order: the kernel's own first.
        common_flags: those that all figures have.
        left_out: how many rows have no figure of the default to compare with.
    """

    driver: Driver
    rows: list[Row]
    policies: list[str]
    common_flags: list[str]
    left_out: int

    @property
    def cells(self) -> Iterator[tuple[Row, str, Cell]]:
        """Those that there are, row by row, with their policy."""
        return (
            (row, policy, row.cells[policy])
            for row in self.rows
            for policy in self.policies
            if policy in row.cells
        )


def policy_maps(results: Iterable[Result]) -> list[PolicyMap]:
    """A map for each driver that has measured more than the default; python has all policies."""
    under_policies = [result for result in results if result.policy is not None]
    drivers: tuple[Driver, ...] = ("python", "native")
    maps = [_map(each, [r for r in under_policies if r.driver == each]) for each in drivers]
    return [each for each in maps if each.rows]


def marks(row: Row, policy: str) -> str:
    """What is to be seen of a cell at a glance: best, behind, flagged, untrusted."""
    cell = row.cells[policy]
    trusted = cell.speedup is None or cell.speedup.trusted
    return "".join(
        mark
        for mark, there in (
            (BEST, policy == row.best),
            (row.remark.mark if row.remark else "", policy == AUTO),
            (FLAGGED if trusted else UNTRUSTED, cell.flags or not trusted),
        )
        if there
    )


def written(row: Row, policy: str) -> str:
    """A cell as text: "1.42★ (1.38-1.47)", "failed", or nothing."""
    cell = row.cells.get(policy)
    if cell is None:
        return ""
    if cell.speedup is None:
        return f"failed{marks(row, policy)}"
    head = f"{text.times(cell.speedup.ratio)}{marks(row, policy)}"
    return f"{head} ({span(cell.speedup)})" if cell.speedup.interval else head


def span(found: Speedup) -> str:
    """The interval of a speed-up: "1.38-1.47"; empty where there is none."""
    return "-".join(text.times(end) for end in found.interval or ())


def _map(driver: Driver, results: Sequence[Result]) -> PolicyMap:
    grouped: dict[Case, dict[str, Result]] = {}
    for result in results:
        case = msgspec.structs.replace(result.case(), policy=None)
        grouped.setdefault(case, {})[result.policy or DEFAULT] = result
    several = [row for row in grouped.values() if len(row) > 1]
    compared = [row for row in several if DEFAULT in row and row[DEFAULT].median]
    figures = [each for row in compared for each in row.values() if each.error is None]
    common = set.intersection(*(set(each.flags) for each in figures)) if figures else set()
    names = _names([row[DEFAULT] for row in compared])
    rows = [_row(*name, row, common) for name, row in zip(names, compared, strict=True)]
    seen = {policy for row in rows for policy in row.cells}
    policies = [p for p in dict.fromkeys([*POLICIES.names(), *sorted(seen)]) if p in seen]
    return PolicyMap(driver, rows, policies, sorted(common), len(several) - len(compared))


def _row(what: str, where: str, by_policy: dict[str, Result], common: set[str]) -> Row:
    base = by_policy[DEFAULT]
    cells = {
        policy: Cell(
            result,
            # Against itself it has no interval.
            replace(found, interval=None) if found and result is base else found,
            [flag for flag in dict.fromkeys(result.flags + base.flags) if flag not in common],
        )
        for policy, result in by_policy.items()
        for found in [speedup(base, result)]
    }
    ratios = {DEFAULT: 1.0} | {
        policy: cell.speedup.ratio
        for policy, cell in cells.items()
        if cell.speedup is not None and cell.speedup.sure and policy != LIMIT
    }
    best = max(ratios, key=ratios.__getitem__)
    if Flag.UNTRUSTED in base.flags:
        return Row(what, where, base, cells, None, None)
    return Row(what, where, base, cells, best, _remark(cells.get(AUTO), best, ratios[best]))


def _remark(auto: Cell | None, best: str, best_ratio: float) -> Remark | None:
    if auto is None or auto.speedup is None:
        return None
    if auto.speedup.ratio < AUTO_LEAST:
        return Remark(SLOWER, f"auto is below {AUTO_LEAST} of the default")
    if auto.speedup.ratio < AUTO_LEAST_OF_BEST * best_ratio:
        return Remark(BEHIND, f"auto is more than {_BEHIND_PERCENT:.0f} % behind {best}")
    return None


def _names(bases: Sequence[Result]) -> list[tuple[str, str]]:
    """(what, where) of each row; no two are the same where anything tells them apart."""
    plain = [(_what(base), _where(base)) for base in bases]
    counts = Counter(plain)
    alike = {name: [b for b, n in zip(bases, plain, strict=True) if n == name] for name in plain}
    return [
        name if counts[name] == 1 else (name[0], ", ".join([name[1], *_odd(base, alike[name])]))
        for base, name in zip(bases, plain, strict=True)
    ]


def _what(result: Result) -> str:
    length = result.message_bytes or (result.evidence or {}).get("access_bytes")
    parts = [result.workload, result.variant or ""]
    parts.append(f"by {format_bytes(length)}" if isinstance(length, int) else "")
    return " ".join(part for part in parts if part)


def _where(result: Result) -> str:
    file = f"{text.filesystem(result)} {text.file_size(result)}".strip()
    return ", ".join(part for part in (result.cache or "", file) if part)


def _odd(base: Result, others: Sequence[Result]) -> list[str]:
    """The conditions of a row that not all of the others have."""
    shown = ((further(base), {further(each) for each in others}) for further in _FURTHER)
    return [own for own, all_of_them in shown if own and len(all_of_them) > 1]
