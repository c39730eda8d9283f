"""The parts of a plot: styles, points with their hover text, error bars, axes.

All text is escaped here: plotly.js takes a few HTML tags in names and labels for markup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from shmbench.report import text
from shmbench.results import Result
from shmbench.units import format_bytes, format_duration, format_rate

Trace = dict[str, Any]

# Distinguishable for colour-blind readers, on light and on dark ground; then again, dashed.
COLOURS = (
    *("#3f7fc1", "#d97b28", "#3a9d73", "#b65fa8", "#c9a227"),
    *("#d1565b", "#5bb0c9", "#8a7a5c", "#7d74c9", "#7f9a35"),
)
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
LIMIT_COLOUR = "#8c8c8c"

# Where the largest figure is at most this many times the smallest, an axis starts at zero.
_LINEAR_SPAN = 5


def style(number: int) -> Trace:
    """Colour, dash and symbol of the n-th thing in a plot."""
    turn = number // len(COLOURS)
    colour = COLOURS[number % len(COLOURS)]
    return {
        "line": {"color": colour, "dash": DASHES[turn % len(DASHES)], "width": 2},
        "marker": {"color": colour, "symbol": SYMBOLS[turn % len(SYMBOLS)], "size": 8},
    }


def hover(result: Result, *lines: str) -> str:
    """What one point is: driver, channel, figure with unit, conditions, flags."""
    what = f"{result.driver} {result.channel or result.variant or result.workload}"
    rates = (text.byte_rate(result), text.operation_rate(result))
    parts = [
        f"<b>{escape(what)}</b> {text.size(result)}",
        *lines,
        f"{text.median(result)} per {escape(result.operation or 'operation')}"
        f" ({text.interval(result)})",
        ", ".join(rate for rate in rates if rate),
        f"{text.of_limit(result)} of {escape(result.limit.name)}" if result.limit else "",
        *(escape(condition) for condition in text.conditions(result)),
        f"flags: {escape(', '.join(result.flags))}" if result.flags else "",
    ]
    return "<br>".join(part for part in parts if part)


def line_over_sizes(results: Sequence[Result], name: str, number: int, rates: bool) -> Trace:
    """A channel's line over the message's size: bytes a second, or seconds."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(name),
        "x": [result.message_bytes for result in results],
        "y": [result.bytes_per_second if rates else result.median for result in results],
        "error_y": _rate_bars(results) if rates else _time_bars(results),
        "hovertext": [hover(result) for result in results],
        "hoverinfo": "text",
        **style(number),
    }


def line_over_percentiles(result: Result, name: str, number: int) -> Trace:
    """A channel's line over the percentiles of its single operations."""
    tail = result.percentiles or {}
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(name),
        "x": list(tail),
        "y": list(tail.values()),
        "hovertext": [
            hover(result, f"{escape(percentile)}: {format_duration(value)}")
            for percentile, value in tail.items()
        ],
        "hoverinfo": "text",
        **style(number),
    }


def limit_line(name: str, values: dict[int, float], number: int, rates: bool) -> Trace:
    """A limit in grey.

    Args:
        values: message size -> bytes a second, or seconds per operation, at the limit.
    """
    sizes = sorted(values)
    y = [values[size] for size in sizes]
    show = format_rate if rates else format_duration
    return {
        "type": "scatter",
        "mode": "lines" if len(sizes) > 1 else "markers",
        "name": f"limit: {escape(name)}",
        "x": sizes,
        "y": y,
        "line": {"color": LIMIT_COLOUR, "dash": DASHES[1 + number % 3], "width": 2},
        "marker": {"color": LIMIT_COLOUR, "symbol": "line-ew-open", "size": 22}
        | {"line": {"width": 2}},
        "hovertext": [f"limit: {escape(name)}<br>{show(value)}" for value in y],
        "hoverinfo": "text",
    }


def dots(
    results: Sequence[Result], name: str, rows: Sequence[str], numbers: Sequence[int]
) -> Trace:
    """A dot with its interval in each row; `numbers` are those of the dots' styles."""
    markers = [style(number)["marker"] for number in numbers]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(name),
        "x": [result.median for result in results],
        "y": [escape(row) for row in rows],
        "error_x": _time_bars(results) | {"color": LIMIT_COLOUR},
        "hovertext": [hover(result) for result in results],
        "hoverinfo": "text",
        "marker": {
            "color": [marker["color"] for marker in markers],
            "symbol": [marker["symbol"] for marker in markers],
            "size": 9,
        },
    }


def _time_bars(results: Sequence[Result]) -> Trace:
    """The interval of the median, in seconds."""
    ends = [(result.median or 0.0, result.ci or [result.median or 0.0] * 2) for result in results]
    return _bars([ci[1] - median for median, ci in ends], [median - ci[0] for median, ci in ends])


def _rate_bars(results: Sequence[Result]) -> Trace:
    """The interval of the median, as bytes a second: the low end of the time is the high one."""
    above, below = [], []
    for result in results:
        rate, median = result.bytes_per_second or 0.0, result.median or 1.0
        low, high = result.ci or (median, median)
        above.append(rate * (median / low - 1) if low > 0 else 0.0)
        below.append(rate * (1 - median / high) if high > 0 else 0.0)
    return _bars(above, below)


def _bars(above: list[float], below: list[float]) -> Trace:
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 1,
        "width": 3,
    }


def figure_axis(
    title: str, values: Iterable[float], show: Callable[[float], str] = format_duration
) -> Trace:
    """An axis of figures with their unit: from zero where they are alike, else logarithmic."""
    positive = [value for value in values if value > 0]
    low, high = min(positive), max(positive)
    linear = high <= _LINEAR_SPAN * low
    ticks = _linear_ticks(high) if linear else _logarithmic_ticks(low, high)
    return {
        "type": "linear" if linear else "log",
        "rangemode": "tozero",
        "title": {"text": escape(title)},
        "tickvals": ticks,
        "ticktext": [show(tick) for tick in ticks],
    }


def _linear_ticks(high: float) -> list[float]:
    """Four to ten round figures from zero on."""
    power = 10.0 ** math.floor(math.log10(high))
    step = next(power * part for part in (0.2, 0.5, 1.0) if high / (power * part) <= 10)
    return [step * count for count in range(math.ceil(high / step) + 1)]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and 2 and 5 times them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    parts = (1, 2, 5) if last - first <= 3 else (1,)
    return [part * 10.0**power for power in range(first, last + 1) for part in parts]


def size_axis(sizes: Iterable[int]) -> Trace:
    """An axis of message sizes, with a tick at each that was measured."""
    shown = sorted(set(sizes))
    return {
        "type": "log",
        "title": {"text": "message size"},
        "tickvals": shown,
        "ticktext": [format_bytes(size) for size in shown],
    }


def category_axis(names: Iterable[str], title: str | None = None) -> Trace:
    """An axis of names, in their order."""
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [escape(name) for name in names],
        "title": {"text": title},
    }
