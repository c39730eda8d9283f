"""The map of the policies as a plot for plotly.js; the same map and its counters as tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from shmbench.report import text, traces
from shmbench.report.figure import Figure, Table
from shmbench.report.policy_map import (
    AUTO,
    MARKS,
    Cell,
    PolicyMap,
    Row,
    marks,
    policy_maps,
    span,
    written,
)
from shmbench.results import Result
from shmbench.speedup import LIMIT
from shmbench.units import format_bytes

_CAPTION = (
    "times as fast as the kernel's default (policy none), with the 95 % interval by bootstrap over "
    f"process groups; {MARKS}; hatched: untrusted"
)
_COLOURS = [[0, "#b5651d"], [0.35, "#f0d9bd"], [0.5, "#f4f4f2"], [0.65, "#bcd8ee"], [1, "#2b6cab"]]
_SPAN = 8.0  # times faster or slower at which the colours end
_ROW_HEIGHT, _HEAD_HEIGHT = 44, 130


def policy_figures(results: Iterable[Result]) -> list[Figure]:
    """A map for each driver that has measured policies."""
    return [_figure(each) for each in policy_maps(results)]


def _figure(found: PolicyMap) -> Figure:
    def grid(show: Callable[[Row, str, Cell], Any], nothing: Any = "") -> list[list[Any]]:
        return [
            [
                show(row, policy, row.cells[policy]) if policy in row.cells else nothing
                for policy in found.policies
            ]
            for row in found.rows
        ]

    heat: traces.Trace = {
        "type": "heatmap",
        "x": [_heading(policy) for policy in found.policies],
        "y": list(range(len(found.rows))),
        "z": grid(lambda row, policy, cell: _colour(cell), None),
        "text": grid(lambda row, policy, cell: _label(row, policy)),
        "texttemplate": "%{text}",
        "hovertext": grid(_hover),
        "hoverinfo": "text",
        "hoverongaps": False,
        "colorscale": _COLOURS,
        "zmin": -math.log2(_SPAN),
        "zmax": math.log2(_SPAN),
        "colorbar": {"thickness": 12, "tickvals": [-3, -2, -1, 0, 1, 2, 3]}
        | {"ticktext": ["1/8", "1/4", "1/2", "1", "2", "4", "8"], "title": {"text": "times"}},
        "xgap": 2,
        "ygap": 2,
    }
    notes = [_CAPTION]
    if found.common_flags:
        notes.append(f"all flagged {', '.join(found.common_flags)}")
    if found.left_out:
        notes.append(f"left out, for want of the default's figure: {found.left_out} rows")
    layout = {
        "xaxis": {"type": "category", "side": "top", "showgrid": False, "tickangle": -35},
        "yaxis": {
            "tickvals": heat["y"],
            "ticktext": [f"{escape(row.what)}<br>{escape(row.where)}" for row in found.rows],
            "autorange": "reversed",
            "showgrid": False,
        },
        "shapes": [
            _hatch(found.policies.index(policy), found.rows.index(row))
            for row, policy, cell in found.cells
            if cell.speedup is not None and not cell.speedup.trusted
        ],
        "height": _HEAD_HEIGHT + _ROW_HEIGHT * max(len(found.rows), 4),
    }
    title = f"policies: speed-up over the kernel's default, {found.driver} driver"
    tables = [_map_table(found), *_counter_table(found)]
    return Figure(title, "; ".join(notes), [heat], layout, tables)


def _heading(policy: str) -> str:
    return f"{escape(policy)} (limit)" if policy == LIMIT else escape(policy)


def _colour(cell: Cell) -> float | None:
    return None if cell.speedup is None else math.log2(cell.speedup.ratio)


def _label(row: Row, policy: str) -> str:
    """What stands in the cell: the ratio and its marks, the interval below."""
    found = row.cells[policy].speedup
    if found is None:
        return "failed"
    return f"{text.times(found.ratio)}{marks(row, policy)}<br>{span(found)}"


def _hover(row: Row, policy: str, cell: Cell) -> str:
    result = cell.result
    lines = [
        f"policy {escape(policy)}: {_against(cell)}",
        f"<b>{escape(row.remark.why)}</b>" if policy == AUTO and row.remark else "",
        f"best of its row: {escape(row.best)}" if row.best else "",
        f"none: {text.median(row.base)} ({text.interval(row.base)})",
        f"none is flagged: {escape(', '.join(row.base.flags))}" if row.base.flags else "",
        f"{escape(text.mount(result))}, {text.file_size(result)}",
    ]
    return traces.hover(result, *(line for line in lines if line))


def _against(cell: Cell) -> str:
    if cell.speedup is None:
        why = cell.result.error.message if cell.result.error else "no figure"
        return f"failed: {escape(why)}"
    return f"{text.ratio(cell.speedup)} times as fast as none"


def _hatch(column: int, row: int) -> dict[str, Any]:
    """Three lines across a cell."""
    left, right, top, bottom = column - 0.48, column + 0.48, row - 0.48, row + 0.48
    path = (
        f"M{left},{row} L{column},{top} M{left},{bottom} L{right},{top} "
        f"M{column},{bottom} L{right},{row}"
    )
    return {"type": "path", "path": path, "line": {"color": "rgba(90,90,90,0.6)", "width": 1}}


def _map_table(found: PolicyMap) -> Table:
    return Table(
        "The map as a table",
        ["", *(f"{policy} (limit)" if policy == LIMIT else policy for policy in found.policies)],
        [[row.name, *(written(row, policy) for policy in found.policies)] for row in found.rows],
    )


# What a policy did, beside its time: counters are sums over ranks and timed batches.
_Counted = Callable[[Result], float | None]


def _per_batch(*names: str) -> _Counted:
    """The first of these counters that there is, a batch."""

    def found(result: Result) -> float | None:
        counters = result.counters
        batches = counters.get("batches")
        return next((counters[n] / batches for n in names if batches and n in counters), None)

    return found


def _huge_bytes(result: Result) -> float | None:
    evidence = result.evidence or {}
    if "huge_bytes" not in evidence:
        return None
    return float(evidence["huge_bytes"] + evidence.get("hugetlb_bytes", 0))


def _bytes(value: float) -> str:
    return format_bytes(round(value))


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


_COUNTERS: tuple[tuple[str, _Counted, Callable[[float], str]], ...] = (
    ("minor faults", _per_batch("process_minor_faults", "minor_faults"), _count),
    ("major faults", _per_batch("process_major_faults", "major_faults"), _count),
    ("read from the device", _per_batch("device_read_bytes"), _bytes),
    ("pages in memory before", _per_batch("resident_pages_before"), _count),
    ("... and after", _per_batch("resident_pages_after"), _count),
    ("pages read and never used", _per_batch("pages_never_used"), _count),
    ("pages asked for ahead", _per_batch("policy_pages_asked"), _count),
    ("... and given up", _per_batch("policy_pages_unused"), _count),
    ("in huge pages", _huge_bytes, _bytes),
)


def _counter_table(found: PolicyMap) -> list[Table]:
    """A row a cell; the columns that any cell has."""
    cells = [(row, policy, cell.result) for row, policy, cell in found.cells if cell.speedup]
    shown = [each for each in _COUNTERS if any(each[1](result) for _, _, result in cells)]
    if not shown:
        return []
    rows = [
        [row.name, policy, *(_shown(read(result), show) for _, read, show in shown)]
        for row, policy, result in cells
    ]
    title = "Counters by policy, a timed batch: where a file is read, one pass over it"
    return [Table(title, ["", "policy", *(name for name, _, _ in shown)], rows)]


def _shown(value: float | None, show: Callable[[float], str]) -> str:
    return "" if value is None else show(value)
