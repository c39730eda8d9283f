"""The figures of docs/policy.md: what of a result file each one shows, and under which conditions.

Only the Python driver's: it is what a reader of that page gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, NamedTuple

from shmbench import machine
from shmbench.measure.flags import Flag
from shmbench.report import text
from shmbench.report.policy_map import MARKS, UNTRUSTED, Row, policy_maps, written
from shmbench.results import Result, ResultFile
from shmbench.speedup import DEFAULT
from shmbench.units import format_bytes, format_duration

_DRIVER = "python"
_IN_MEMORY = "tmpfs"
_READS = ("scan", "reverse", "strided", "streams", "random_read", "zipf")
_NO_ORDER = ("random_read", "zipf", "strided")
_HINTS = ("sequential", "random", "willneed", "populate")
_TECHNIQUES = ("map_ahead", "auto", "watch", "guided", "mapping_cache")
DEVICE = "the device at depth 64"
_LEGEND = f"{UNTRUSTED} untrusted"


class Point(NamedTuple):
    """A figure with its interval, and as the table has it.

    Attributes:
        low, high: the ends of its 95 % interval; the value itself where there is none.
        trusted: whether it is not flagged untrusted.
    """

    value: float
    low: float
    high: float
    text: str
    trusted: bool = True


@dataclass(frozen=True)
class Plot:
    """One figure, and its table.

    Attributes:
        name: of its file, and of its place in the page.
        axis: what a value is, with its unit.
        kind: of a row, a group of bars that begin at 1; or a group of dots; or lines over the rows.
        rows: what is compared.
        series: by name, a point a row; None where there is none.
        legend: what the marks in the table mean.
        caption: the conditions, all from the result file.
    """

    name: str
    title: str
    axis: str
    kind: Literal["bars", "dots", "lines"]
    rows: list[str]
    series: dict[str, list[Point | None]]
    legend: str
    caption: str = ""


def plots(file: ResultFile) -> dict[str, Plot | None]:
    """All figures of the page by name; None where the file has no results for one."""
    return {name: make(file, name) for name, make in _PLOTS.items()}


def _rows(file: ResultFile) -> list[Row]:
    return [r for found in policy_maps(file.results) if found.driver == _DRIVER for r in found.rows]


def _is_cold(row: Row) -> bool:
    return row.base.cache == "cold"


def _used(rows: Sequence[Row], policies: Sequence[str]) -> list[Result]:
    return [row.cells[name].result for row in rows for name in policies if name in row.cells]


def _speedups(
    title: str, policies: Sequence[str], wanted: Callable[[Row], bool]
) -> Callable[[ResultFile, str], Plot | None]:
    """Each of these policies against the kernel's default, a group of bars a row of the map."""

    def make(file: ResultFile, name: str) -> Plot | None:
        rows = [row for row in _rows(file) if row.base.workload in _READS and wanted(row)]
        series = {policy: [_speedup(row, policy) for row in rows] for policy in policies}
        used = _used(rows, (DEFAULT, *policies))
        axis = "times as fast as the kernel's default"
        plot = Plot(name, title, axis, "bars", _names(rows), series, MARKS)
        return _finished(plot, file, used)

    return make


def _speedup(row: Row, policy: str) -> Point | None:
    found = row.cells[policy].speedup if policy in row.cells else None
    if found is None:
        return None
    low, high = found.interval or (found.ratio, found.ratio)
    return Point(found.ratio, low, high, written(row, policy), found.trusted)


def _guided(file: ResultFile, name: str) -> Plot | None:
    """Time an access of cold files in no order, and what the device could do."""
    rows = [row for row in _rows(file) if row.base.workload in _NO_ORDER and _is_cold(row)]
    chosen = (DEFAULT, "random", "watch", "guided")
    series: dict[str, list[Point | None]] = {
        policy: [_time(row.cells[policy].result) if policy in row.cells else None for row in rows]
        for policy in chosen
    }
    series[DEVICE] = [_limit(row.base) for row in rows]
    title = "Cold files read in no order that the kernel knows"
    plot = Plot(name, title, "time an access", "dots", _names(rows), series, _LEGEND)
    return _finished(plot, file, _used(rows, chosen))


def _reopen(file: ResultFile, name: str) -> Plot | None:
    """Time to open, use and close a warm file, by its size: mapped anew, or from the cache."""
    found = [
        result
        for result in file.results
        if (result.workload, result.driver, result.cache) == ("reopen", _DRIVER, "warm")
        and result.median
    ]
    # One file system to a figure: the one in memory, where all of the time is the mapping's.
    kinds = list(dict.fromkeys(text.filesystem(result) for result in found))
    kind = _IN_MEMORY if _IN_MEMORY in kinds else next(iter(kinds), "")
    found = [result for result in found if text.filesystem(result) == kind]
    sizes = sorted({result.file_bytes or 0 for result in found})
    series: dict[str, list[Point | None]] = {}
    for result in found:
        line = series.setdefault(_way(result), [None] * len(sizes))
        line[sizes.index(result.file_bytes or 0)] = _time(result)
    title = "Opening, using and closing a warm file"
    names = [format_bytes(size) for size in sizes]
    axis = "time to open, use and close"
    plot = Plot(name, title, axis, "lines", names, series, _LEGEND)
    return _finished(plot, file, found)


def _way(result: Result) -> str:
    if result.variant == "read_call":
        return "read() of all of it"
    how = "mapping cache" if result.policy == "mapping_cache" else "mapped anew"
    return f"{how}, {(result.variant or '').replace('_', ' ')}"


_PLOTS: dict[str, Callable[[ResultFile, str], Plot | None]] = {
    "map-ahead": _speedups(
        "Warm files in memory: techniques against the kernel's default",
        _TECHNIQUES,
        lambda row: row.base.cache == "warm" and text.filesystem(row.base) == _IN_MEMORY,
    ),
    "warm-disk": _speedups(
        "Warm files on a disk: techniques against the kernel's default",
        _TECHNIQUES,
        lambda row: row.base.cache == "warm" and text.filesystem(row.base) != _IN_MEMORY,
    ),
    "cold": _speedups(
        "Cold files on a disk: techniques against the kernel's default",
        [policy for policy in _TECHNIQUES if policy != "mapping_cache"],
        _is_cold,
    ),
    "guided": _guided,
    "reopen": _reopen,
    "hints": _speedups(
        "Cold files on a disk: one hint for all of the file against none",
        _HINTS,
        _is_cold,
    ),
}


def _names(rows: Sequence[Row]) -> list[str]:
    """What the caption says of all rows is not repeated in each."""
    return [row.what if len({row.where for row in rows}) == 1 else row.name for row in rows]


def _time(result: Result) -> Point | None:
    if not result.median:
        return None
    low, high = result.ci or (result.median, result.median)
    trusted = Flag.UNTRUSTED not in result.flags
    mark = "" if trusted else f" {UNTRUSTED}"
    return Point(result.median, low, high, text.median(result) + mark, trusted)


def _limit(result: Result) -> Point | None:
    if result.limit is None:
        return None
    value = result.limit.value
    return Point(value, value, value, format_duration(value))


def _finished(plot: Plot, file: ResultFile, used: Sequence[Result]) -> Plot | None:
    """With its caption, and without series that have no point; None where none has any."""
    filled = {name: points for name, points in plot.series.items() if any(points)}
    return replace(plot, series=filled, caption=_caption(file, used)) if filled else None


def _caption(file: ResultFile, used: Sequence[Result]) -> str:
    """Under which conditions all of these were measured."""
    facts = file.machine
    shown = {key: machine.show(key, facts.get(key)) for key in ("cpu_model", "kernel", "shmbench")}
    groups = [result.groups for result in used if result.groups]
    flags = sorted({flag for result in used for flag in result.flags})
    parts = [
        f"{shown['cpu_model']}, {facts.get('cpus_online')} CPUs, Linux {shown['kernel']}",
        " and ".join(_distinct(text.mount(result) for result in used)),
        f"files of {', '.join(_distinct(text.file_size(result) for result in used))}",
        f"{_DRIVER} driver",
        f"ranks: {', '.join(_distinct(str(result.ranks) for result in used))}",
        f"95 % intervals over {_span(groups)} process groups",
        f"some flagged {', '.join(flags)}" if flags else "",
        f"shmbench {shown['shmbench']}, {_day(file.created)}",
    ]
    return "; ".join(part for part in parts if part)


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, texts)))


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _day(created: str) -> str:
    try:
        return datetime.fromisoformat(created).date().isoformat()
    except ValueError:
        return created
