"""The plots of many nodes: a strip a figure, a dot a node, against the median of its peers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median as middle

from shmbench.report import nodes_text, traces
from shmbench.report.figure import Figure, Table
from shmbench.survey import Figure as NodeFigure
from shmbench.survey import NodeVerdict, Survey

_STRIP_HEIGHT = 46
_RANKED = 20  # of each figure's nodes, in the table below
_SLOW_COLOUR, _SOUND_COLOUR = "#d1565b", "#3f7fc1"
_NAMED = 3  # slow nodes of a strip that have their name beside the dot
_WIDTH = 0.34  # of a strip, on each side of its middle


def node_figures(found: Survey) -> list[Figure]:
    """A plot a driver and group of hardware; none where there is one node only."""
    drawn = []
    keys = dict.fromkeys((figure.group, figure.case.driver) for figure in found.figures)
    verdicts = {verdict.host: verdict for verdict in found.verdicts}
    for group, driver in keys:
        figures = [
            figure
            for figure in found.figures
            if (figure.group, figure.case.driver) == (group, driver) and len(figure.results) > 1
        ]
        if figures:
            drawn.append(_strips(figures, driver, verdicts))
    return drawn


def _strips(figures: Sequence[NodeFigure], driver: str, verdicts: dict[str, NodeVerdict]) -> Figure:
    labels = [nodes_text.label(figure) for figure in figures]
    nodes = max(len(figure.results) for figure in figures)
    ends: list[float] = []
    sound, slow = _Dots(), _Dots()
    for row, figure in enumerate(reversed(figures)):
        centre = middle(figure.times())
        named = [host for host in reversed(figure.results) if _is_slow(host, figure, verdicts)]
        for place, (host, result) in enumerate(figure.results.items(), start=1):
            ratio = (result.median or 0.0) / centre
            ends.append(ratio)
            tip = "<br>".join(
                [
                    f"<b>{escape(host)}</b>: {ratio:.3f}x the median, place {place}",
                    traces.hover(result),
                    *(escape(str(cause)) for cause in verdicts[host].causes[:2]),
                ]
            )
            dots = slow if host in named else sound
            dots.add(ratio, row + _jitter(place), tip, host if host in named[:_NAMED] else "")
    drawn = [sound.trace("node", _SOUND_COLOUR, 5), slow.trace("slow node", _SLOW_COLOUR, 9)]
    hardware = f", hardware {figures[0].group + 1}" if figures[0].group else ""
    layout = {
        "xaxis": _ratio_axis(ends),
        "yaxis": {
            "tickvals": list(range(len(labels))),
            "ticktext": [escape(label) for label in reversed(labels)],
            "range": [-0.7, len(labels) - 0.3],
        },
        "shapes": [
            {"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1}
            | {"line": {"color": traces.LIMIT_COLOUR, "dash": "dash", "width": 1}}
        ],
        "height": 140 + _STRIP_HEIGHT * max(2, len(labels)),
    }
    return Figure(
        f"{nodes} nodes compared{hardware}, {driver} driver",
        "each dot is a node's time over the median of its hardware: right is slower; red nodes are "
        "slow in this figure, or in several that it is part of",
        [trace for trace in drawn if trace["x"]],
        layout,
        [_figures_table(figures), *_rankings(figures)],
    )


def _is_slow(host: str, figure: NodeFigure, verdicts: dict[str, NodeVerdict]) -> bool:
    """In this figure itself, or in a row that it is part of."""
    workload = f"{figure.case.workload}, {figure.case.driver}"
    rows = {finding.figure for finding in verdicts[host].findings}
    return host in figure.slow or bool(rows & {"all figures", workload})


def _jitter(place: int) -> float:
    """Spreads dots over a strip's width, the same way each time (golden ratio sequence)."""
    return _WIDTH * (2 * ((place * 0.6180339887) % 1.0) - 1)


class _Dots:
    """The nodes of one colour."""

    def __init__(self) -> None:
        self._x: list[float] = []
        self._y: list[float] = []
        self._tips: list[str] = []
        self._names: list[str] = []

    def add(self, x: float, y: float, tip: str, name: str) -> None:
        self._x.append(round(x, 4))
        self._y.append(round(y, 3))
        self._tips.append(tip)
        self._names.append(escape(name))

    def trace(self, name: str, colour: str, size: int) -> traces.Trace:
        return {
            "type": "scatter",
            "mode": "markers+text" if any(self._names) else "markers",
            "name": name,
            "x": self._x,
            "y": self._y,
            "text": self._names,
            "textposition": "middle left",
            "hovertext": self._tips,
            "hoverinfo": "text",
            "marker": {"color": colour, "size": size, "opacity": 0.75},
        }


def _ratio_axis(ends: Sequence[float]) -> traces.Trace:
    """Times the median, logarithmic, with round ticks."""
    low, high = min([*ends, 0.9]), max([*ends, 1.2])
    fine = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0)
    coarse = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)
    ticks = [tick for tick in (fine if high <= 2.2 else coarse) if low * 0.9 <= tick <= high * 1.1]
    return {
        "type": "log",
        "title": {"text": "time, times the median"},
        "tickvals": ticks,
        "ticktext": [f"{tick:g}x" for tick in ticks],
    }


def _figures_table(figures: Sequence[NodeFigure]) -> Table:
    return Table(
        "Each figure over all nodes",
        list(nodes_text.FIGURE_COLUMNS),
        [nodes_text.figure_row(figure) for figure in figures],
    )


def _rankings(figures: Sequence[NodeFigure]) -> list[Table]:
    """The slowest nodes of each figure in which one is an outlier."""
    return [
        Table(
            f"Ranking: {nodes_text.label(figure)}",
            ["place", "node", "median", "of the median", ""],
            nodes_text.ranking(figure)[:_RANKED],
        )
        for figure in figures
        if figure.slow
    ]
