"""Draws the figures of docs/policy.md as SVG, with matplotlib: the same plot, the same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shmbench.errors import Unavailable
from shmbench.report.docs_figures import DEVICE, Plot, Point
from shmbench.report.text import times
from shmbench.report.traces import COLOURS, LIMIT_COLOUR
from shmbench.units import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_IN, _BAR_IN, _FRAME_IN = 9.0, 0.13, 2.2
_LINES_HEIGHT_IN = 5.0
_PITCH = 0.8  # of a row; the rest is the gap to the next
# Fixed, so that the file does not change when nothing has changed.
_STABLE: Any = {"svg.hashsalt": "shmbench", "svg.fonttype": "none", "font.family": "sans-serif"}


def draw(plot: Plot, path: Path) -> None:
    """Write one figure.

    Raises:
        Unavailable: matplotlib is not installed.
        OSError: the file can't be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unavailable(
            "drawing for the documentation needs matplotlib", "pip install 'shmbench[docs]'"
        ) from error
    with matplotlib.rc_context(_STABLE):
        figure = Figure(figsize=(_WIDTH_IN, _height(plot)), layout="constrained")
        axes = figure.subplots()
        {"bars": _bars, "dots": _dots, "lines": _lines}[plot.kind](axes, plot)
        axes.set_title(plot.title, loc="left", fontsize=11)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.supxlabel(textwrap.fill(plot.caption, 165), fontsize=7, x=0.01, ha="left")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _height(plot: Plot) -> float:
    if plot.kind == "lines":
        return _LINES_HEIGHT_IN
    return _FRAME_IN + _BAR_IN * len(plot.rows) * (len(plot.series) + 1)


def _style(number: int, name: str) -> dict[str, Any]:
    colour = LIMIT_COLOUR if name == DEVICE else COLOURS[number % len(COLOURS)]
    return {"color": colour, "label": name}


def _bars(axes: Axes, plot: Plot) -> None:
    """Ratios: rows from the top, in each a bar a series; hatched where it is untrusted."""
    for number, (name, places, points) in enumerate(_grouped(plot)):
        drawn = axes.barh(
            places,
            [point.value - 1 for point in points],
            left=1,
            height=0.9 * _PITCH / len(plot.series),
            xerr=_errors(points),
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
            **_style(number, name),
        )
        for bar, point in zip(drawn, points, strict=True):
            bar.set_hatch("" if point.trusted else "////")
    axes.axvline(1, color="#444444", linewidth=0.8)
    _rows_from_the_top(axes, plot, times)


def _dots(axes: Axes, plot: Plot) -> None:
    """Times: rows from the top, in each a dot a series; hollow where it is untrusted."""
    for number, (name, places, points) in enumerate(_grouped(plot)):
        values, style = [point.value for point in points], _style(number, name)
        axes.errorbar(values, places, xerr=_errors(points), fmt="o", capsize=3, **style)
        _hollow(axes, values, places, points, style)
    _rows_from_the_top(axes, plot, format_duration)


def _grouped(plot: Plot) -> Iterator[tuple[str, list[float], list[Point]]]:
    """Each series with the places of its points: a row is 1 high, and its series share it."""
    pitch = _PITCH / len(plot.series)
    for number, (name, points) in enumerate(plot.series.items()):
        there = [(row, point) for row, point in enumerate(points) if point is not None]
        middle = (number + 0.5) * pitch - _PITCH / 2
        yield name, [row + middle for row, _ in there], [point for _, point in there]


def _rows_from_the_top(axes: Axes, plot: Plot, show: Callable[[float], str]) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, position: show(value))
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(plot.axis, fontsize=9)
    axes.set_yticks(range(len(plot.rows)), [row.replace(", ", "\n", 1) for row in plot.rows])
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()


def _lines(axes: Axes, plot: Plot) -> None:
    """Times: rows from left to right, a line a series; hollow where it is untrusted."""
    for number, (name, points) in enumerate(plot.series.items()):
        places = [row for row, point in enumerate(points) if point is not None]
        there = [point for point in points if point is not None]
        values, style = [point.value for point in there], _style(number, name)
        axes.errorbar(places, values, yerr=_errors(there), marker="o", capsize=3, **style)
        _hollow(axes, places, values, there, style)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, position: format_duration(value))
    axes.yaxis.set_minor_formatter("")
    axes.set_ylabel(plot.axis, fontsize=9)
    axes.set_xticks(range(len(plot.rows)), plot.rows)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", alpha=0.3)


def _hollow(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    points: Sequence[Point],
    style: dict[str, Any],
) -> None:
    """Whitens those that are untrusted."""
    doubtful = [i for i, point in enumerate(points) if not point.trusted]
    axes.scatter(
        [x[i] for i in doubtful],
        [y[i] for i in doubtful],
        facecolors="white",
        edgecolors=style["color"],
        zorder=3,
    )


def _errors(points: Sequence[Point]) -> list[list[float]]:
    return [
        [max(0.0, point.value - point.low) for point in points],
        [max(0.0, point.high - point.value) for point in points],
    ]
