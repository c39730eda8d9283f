"""A plot and the tables that belong to it, as the page shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shmbench.report.traces import Trace


@dataclass(frozen=True)
class Table:
    """What stands below a plot to be read and copied: all cells are text."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """One plot.

    Attributes:
        title: workload, figure and driver.
        caption: the conditions that all of it has in common.
        traces: plotly.js's `data`.
        layout: plotly.js's `layout`, without the colours and fonts of the page.
        tables: the same in text, and what is behind it.
    """

    title: str
    caption: str
    traces: list[Trace]
    layout: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
