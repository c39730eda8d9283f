"""The plots of a result file, as plain dictionaries for plotly.js. A plot never holds both drivers.

Where conditions differ between the lines of a plot, a line's name says what is unusual about it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import msgspec

from shmbench.cases import Case
from shmbench.report import text, traces
from shmbench.report.figure import Figure
from shmbench.results import Result
from shmbench.units import format_rate

Key = TypeVar("Key", bound=Hashable)

# Up to this many CPUs, each cell of the matrix has its figure written into it.
_WRITTEN_CPUS_MAX = 16

# What may tell two lines of one channel apart; empty where it does not apply.
_CONDITIONS: tuple[Callable[[Result], str], ...] = (
    lambda result: result.variant or "",
    text.region,
    lambda result: "" if result.numa in (None, "local") else f"NUMA memory {result.numa}",
    lambda result: result.policy or "",
    lambda result: result.cache or "",
    lambda result: f"{result.ranks} ranks",
    lambda result: result.placement,
    lambda result: f"first touch by rank {result.first_touch}" if result.first_touch else "",
    lambda result: "by MPI" if result.launcher == "mpi" else "",
)


def figures(results: Iterable[Result]) -> list[Figure]:
    """All plots that these results of one run carry."""
    drawn: list[Figure] = []
    measured = [result for result in results if result.error is None and result.median]
    for (workload, driver), group in _grouped(measured, lambda r: (r.workload, r.driver)).items():
        if workload == "core_to_core":
            drawn += _matrix(group, f"core_to_core: hand-over between CPUs, {driver} driver")
            continue
        lines = _lines(group)
        if lines:
            drawn.append(_by_size(lines, f"{workload}, {driver} driver"))
        else:
            drawn.append(_overview(group, f"{workload}, {driver} driver"))
        drawn += _tails(group, f"{workload}: distribution of latency, {driver} driver")
        drawn += _contrast(
            group,
            f"{workload}: regions compared, {driver} driver",
            fixed=lambda result: (result.channel, result.message_bytes, result.placement),
            row=text.region,
            series=lambda result: f"{result.channel or result.workload} {text.size(result)}",
            varied=text.region,
        )
        drawn += _contrast(
            group,
            f"{workload}: effect of placement, {driver} driver",
            fixed=lambda result: (result.channel, result.message_bytes, text.region(result)),
            row=lambda result: f"{result.channel or result.workload} {text.size(result)}",
            series=lambda result: result.placement,
            varied=lambda result: result.placement,
        )
    return drawn


def _grouped(results: Iterable[Result], key: Callable[[Result], Key]) -> dict[Key, list[Result]]:
    found: dict[Key, list[Result]] = {}
    for result in results:
        found.setdefault(key(result), []).append(result)
    return found


def _lines(results: Sequence[Result]) -> list[list[Result]]:
    """Results that differ in nothing but the message's size: at least two of them, by size."""

    def but_size(result: Result) -> Case:
        # The window follows from the size: fewer large messages fit into a region.
        return msgspec.structs.replace(result.case(), message_bytes=None, window=None)

    groups = _grouped((result for result in results if result.message_bytes), but_size).values()
    return [
        sorted(group, key=lambda result: result.message_bytes or 0)
        for group in groups
        if len({result.message_bytes for result in group}) > 1
    ]


class _Usual:
    """What the conditions of most results in a plot are."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._usual = [
            Counter(filter(None, map(condition, results))).most_common(1)
            for condition in _CONDITIONS
        ]

    def odd(self, result: Result) -> list[str]:
        """The conditions of this result that most others don't share."""
        pairs = zip(_CONDITIONS, self._usual, strict=True)
        found = [(condition(result), usual) for condition, usual in pairs]
        return [value for value, usual in found if value and value != usual[0][0]]

    def name(self, result: Result) -> str:
        """The channel, and what is unusual about this line."""
        own = result.channel or result.variant or result.workload
        return " · ".join(dict.fromkeys([own, *self.odd(result)]))


def _caption(results: Sequence[Result], ending: str) -> str:
    """The conditions that all of them share."""
    others = [set(text.conditions(result)) for result in results[1:]]
    shared = [
        phrase
        for phrase in text.conditions(results[0])
        if all(phrase in conditions for conditions in others)
    ]
    return "; ".join([*shared, ending])


_BARS = "bars are 95 % intervals over process groups"


def _by_size(lines: Sequence[Sequence[Result]], title: str) -> Figure:
    """A line a channel over the message's size: bandwidth where bytes move, else latency."""
    # The null channel moves no bytes, so it has no place among bandwidths.
    moving = [line for line in lines if all(result.bytes_per_second for result in line)]
    rates = bool(moving)
    lines = moving or lines
    flat = [result for line in lines for result in line]
    usual = _Usual(flat)
    drawn = [
        traces.line_over_sizes(line, usual.name(line[0]), number, rates)
        for number, line in enumerate(lines)
    ]
    drawn += _limits(flat, rates)
    values = [value for trace in drawn for value in trace["y"]]
    axis = (
        traces.figure_axis("payload bytes per second", values, format_rate)
        if rates
        else traces.figure_axis(f"median per {flat[0].operation or 'operation'}", values)
    )
    workload, _, driver = title.partition(", ")
    return Figure(
        f"{workload}: {'bandwidth' if rates else 'latency'} by message size, {driver}",
        _caption(flat, _BARS),
        drawn,
        {"xaxis": traces.size_axis(result.message_bytes or 0 for result in flat), "yaxis": axis},
    )


def _limits(results: Sequence[Result], rates: bool) -> list[traces.Trace]:
    """What the hardware can do: a line a limit and placement, over the sizes that have it."""
    limits: dict[str, dict[int, float]] = {}
    many = len({result.placement for result in results}) > 1
    for result in results:
        limit, size = result.limit, result.message_bytes
        if limit is not None and size and limit.value > 0:
            name = f"{limit.name} {result.placement}" if many else limit.name
            at_limit = (result.bytes_per_second or 0) * limit.ratio if rates else limit.value
            limits.setdefault(name, {})[size] = at_limit
    return [
        traces.limit_line(name, values, number, rates)
        for number, (name, values) in enumerate(sorted(limits.items()))
    ]


def _tails(results: Sequence[Result], title: str) -> list[Figure]:
    """Percentiles of single operations: a line a channel, each at its most usual conditions."""
    carried = [result for result in results if result.percentiles]
    if not carried:
        return []
    usual = _Usual(carried)
    counts = Counter(result.message_bytes for result in carried)
    size = min(counts, key=lambda size: (-counts[size], size or 0))
    by_channel = _grouped(
        (result for result in carried if result.message_bytes == size),
        lambda result: (result.channel, result.variant),
    )
    shown = [min(group, key=lambda result: len(usual.odd(result))) for group in by_channel.values()]
    names = {name for result in shown for name in result.percentiles or {}}
    values = [value for result in shown for value in (result.percentiles or {}).values()]
    return [
        Figure(
            title,
            _caption(shown, f"{text.size(shown[0])} messages; percentiles of single operations"),
            [
                traces.line_over_percentiles(result, usual.name(result), number)
                for number, result in enumerate(shown)
            ],
            {
                "xaxis": traces.category_axis(sorted(names, key=_share), "percentile"),
                "yaxis": traces.figure_axis(shown[0].operation or "operation", values),
            },
        )
    ]


def _share(percentile: str) -> float:
    """What a percentile is sorted by: "p99.9" is 99.9, and "max" lies above all."""
    try:
        return float(percentile.removeprefix("p"))
    except ValueError:
        return math.inf


def _contrast(
    results: Sequence[Result],
    title: str,
    *,
    fixed: Callable[[Result], Hashable],
    varied: Callable[[Result], str],
    row: Callable[[Result], str],
    series: Callable[[Result], str],
) -> list[Figure]:
    """What one condition is worth, where all that is fixed is the same."""
    groups = _grouped((result for result in results if varied(result)), fixed).values()
    shown = [
        result
        for group in groups
        if len({varied(result) for result in group}) > 1
        for result in group
    ]
    drawn = [
        traces.dots(group, name, [row(result) for result in group], [number] * len(group))
        for number, (name, group) in enumerate(_grouped(shown, series).items())
    ]
    return [_dot_figure(title, shown, drawn, row)] if shown else []


def _overview(results: Sequence[Result], title: str) -> Figure:
    """A row a channel or variant, where there are no sizes to draw a line over."""
    usual = _Usual(results)
    rows = [f"{usual.name(result)} {text.size(result)}".strip() for result in results]
    by_result = dict(zip(map(id, results), rows, strict=True))
    drawn = [traces.dots(results, title, rows, range(len(results)))]
    return _dot_figure(title, results, drawn, lambda result: by_result[id(result)])


def _dot_figure(
    title: str,
    results: Sequence[Result],
    drawn: list[traces.Trace],
    row: Callable[[Result], str],
) -> Figure:
    rows = list(dict.fromkeys(row(result) for result in results))
    ends = [value for result in results for value in (result.median or 0, *(result.ci or []))]
    return Figure(
        title,
        _caption(results, _BARS),
        drawn,
        {
            "xaxis": traces.figure_axis(f"median per {results[0].operation or 'operation'}", ends),
            "yaxis": traces.category_axis(reversed(rows)),
            "height": 120 + 32 * max(len(rows), 2),
        },
    )


def _matrix(results: Sequence[Result], title: str) -> list[Figure]:
    """Hand-over of a cache line between each two CPUs, as a heat map."""
    found = {tuple(result.cpus): result for result in results if len(result.cpus) == 2}
    cpus = sorted({cpu for pair in found for cpu in pair})
    if not cpus:
        return []
    cells = [
        [found.get((first, second)) or found.get((second, first)) for second in cpus]
        for first in cpus
    ]
    names = [f"CPU {cpu}" for cpu in cpus]
    heat = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [[cell and (cell.median or 0) * 1e9 for cell in row] for row in cells],
        "text": [[text.median(cell) if cell else "" for cell in row] for row in cells],
        "texttemplate": "%{text}" if len(cpus) <= _WRITTEN_CPUS_MAX else "",
        "hovertext": [[traces.hover(cell) if cell else "" for cell in row] for row in cells],
        "hoverinfo": "text",
        "hoverongaps": False,
        "colorscale": [[0, "#dbe9f6"], [1, "#2b5f97"]],
        "colorbar": {"title": {"text": "ns"}, "thickness": 12},
        "xgap": 2,
        "ygap": 2,
    }
    plain = {"type": "category", "showgrid": False, "constrain": "domain"}
    layout = {"xaxis": plain, "yaxis": plain | {"autorange": "reversed", "scaleanchor": "x"}}
    caption = f"nanoseconds per {results[0].operation or 'hand-over'}"
    return [Figure(title, caption, [heat], layout)]
