"""Tables for a terminal and for logs, with rich."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median as middle

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shmbench.compare import Comparison, Direction, Row
from shmbench.report import nodes_text, text
from shmbench.report.policy_map import MARKS, policy_maps, written
from shmbench.results import Result, ResultFile
from shmbench.survey import Survey
from shmbench.units import format_duration

STYLES = {
    "ok": "green",
    "better": "green",
    "yes": "green",
    "worse": "bold red",
    "failed": "bold red",
    "missing": "yellow",
    "warn": "yellow",
    "no": "yellow",
    "undecided": "yellow",
    "slow": "bold red",
    "disturbed": "yellow",
    "incomplete": "yellow",
}

_SPEEDUP = "speed-up"
_NUMBERS = {"size", "median", "interval", "p99", "rate", "of limit", "base", "new", "ratio"}
_NUMBERS |= {"hidden", "rank 0"}
_NUMBERS |= {_SPEEDUP}
_PROSE = {"case", "error", "meaning"}

# Of a matrix with more CPUs than these a terminal shows the range only.
_MATRIX_CPUS_MAX = 12

Column = tuple[str, Callable[[Result], str]]

_NODE: Column = ("node", lambda result: result.host)
_IDENTITY: tuple[Column, ...] = (
    ("channel", lambda result: result.channel or ""),
    ("size", text.size),
)

# A condition is a column where it differs between the rows of a table, else part of its title.
_CONDITIONS: tuple[Column, ...] = (
    ("variant", lambda result: result.variant or ""),
    ("region", text.region),
    ("numa", lambda result: "" if result.numa in (None, "local") else f"numa {result.numa}"),
    ("policy", lambda result: result.policy or ""),
    ("cache", lambda result: result.cache or ""),
    ("file", text.file_size),
    ("ranks", lambda result: f"{result.ranks} ranks"),
    ("placement", lambda result: result.placement),
    ("window", lambda result: f"window {result.window}" if result.window else ""),
    (
        "first touch",
        lambda result: f"rank {result.first_touch} first" if result.first_touch else "",
    ),
    ("launcher", lambda result: "by MPI" if result.launcher == "mpi" else ""),
    ("limit", lambda result: result.limit.name if result.limit else ""),
)

_FIGURES: tuple[Column, ...] = (
    ("median", text.median),
    ("interval", text.spread),
    ("p99", lambda result: text.percentile(result, "p99")),
    ("rate", text.rate),
    ("of limit", text.of_limit),
    ("hidden", lambda result: text.figure(result, "hidden_share")),
    ("rank 0", lambda result: text.figure(result, "rank_0_s")),
)


def results_table(file: ResultFile) -> Group:
    """All results of a run: a table a workload and driver, then what failed, then the flags."""
    parts: list[RenderableType] = []
    measured = [result for result in file.results if result.error is None]
    speedups = {
        id(cell.result): written(row, policy)
        for found in policy_maps(measured)
        for row, policy, cell in found.cells
    }
    for (workload, driver), results in _grouped(measured).items():
        if workload == "core_to_core" and len(results) > 1:
            parts.append(_matrix(results))
        else:
            parts.append(_workload_table(workload, driver, results, speedups))
    if speedups:
        parts.append(Text(f"speed-up: times as fast as policy none, 95 % interval; {MARKS}\n"))
    failed = [result for result in file.results if result.error is not None]
    if failed:
        parts.append(_failures(failed))
    legend = text.legend(flag for result in measured for flag in result.flags)
    if legend:
        parts.append(_table("What the flags mean", ("flag", "meaning", "remedy"), legend))
    return Group(*parts)


def _grouped(results: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    """By workload in order of appearance; native before python."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        for driver in ("native", "python"):
            found.setdefault((result.workload, driver), [])
        found[result.workload, result.driver].append(result)
    return {key: group for key, group in found.items() if group}


def _workload_table(
    workload: str, driver: str, results: Sequence[Result], speedups: Mapping[int, str]
) -> Table:
    compared = any(id(result) in speedups for result in results)
    conditions = [column for column in _CONDITIONS if not (compared and column[0] == "limit")]
    differing = [
        column for column in conditions if len({column[1](result) for result in results}) > 1
    ]
    common = [column[1](results[0]) for column in conditions if column not in differing]
    if compared:
        # They follow from the cache's state; and beside a speed-up, a rate says nothing new.
        limits = dict.fromkeys(result.limit.name for result in results if result.limit)
        common += [f"limit {name}" for name in limits]
    flags = set.intersection(*(set(result.flags) for result in results))
    if flags:
        common.append(f"all flagged {' '.join(sorted(flags))}")

    def own_flags(result: Result) -> str:
        return " ".join(flag for flag in result.flags if flag not in flags)

    figures = [column for column in _FIGURES if not (compared and column[0] == "rate")]
    own: list[Column] = [
        (_SPEEDUP, lambda result: speedups.get(id(result), "")),
        ("flags", own_flags),
    ]
    nodes = [_NODE] if len({result.host for result in results}) > 1 else []
    shown: list[Column] = [*nodes, *_IDENTITY, *differing, *figures, *own]
    filled = [column for column in shown if any(column[1](result) for result in results)]
    operation = f" per {results[0].operation}" if results[0].operation else ""
    return _table(
        f"{workload}{operation}, {driver} driver",
        [name for name, _ in filled],
        [[show(result) for _, show in filled] for result in results],
        caption=", ".join(part for part in common if part),
    )


def _matrix(results: Sequence[Result]) -> Table:
    """Hand-over between each two CPUs."""
    times = {
        tuple(result.cpus): result.median
        for result in results
        if len(result.cpus) == 2 and result.median is not None
    }
    cpus = sorted({cpu for pair in times for cpu in pair})
    flags = dict.fromkeys(flag for result in results for flag in result.flags)
    title = f"core_to_core per {results[0].operation or 'hand-over'}, {results[0].driver} driver"
    if len(cpus) > _MATRIX_CPUS_MAX:
        low, high = min(times.values()), max(times.values())
        cells = [format_duration(value) for value in (low, middle(times.values()), high)]
        pairs = f"{len(times)} pairs of {len(cpus)} CPUs; the matrix is in `shmbench report`"
        return _table(title, ("fastest pair", "median pair", "slowest pair"), [cells], pairs)

    def cell(first: int, second: int) -> str:
        value = times.get((first, second), times.get((second, first)))
        return "" if value is None else format_duration(value)

    return _table(
        title,
        ["CPU", *(str(cpu) for cpu in cpus)],
        [[str(first), *(cell(first, second) for second in cpus)] for first in cpus],
        caption=" ".join(["some flagged", *flags]) if flags else None,
    )


def _failures(results: Sequence[Result]) -> Table:
    rows = [
        (result.case().label(), f"{result.error.type}: {result.error.message}", result.error.remedy)
        for result in results
        if result.error is not None
    ]
    return _table("Failed cases", ("case", "error", "remedy"), rows)


def comparison_table(comparison: Comparison, *, everything: bool = False) -> Group:
    """What changed between two runs, worst first, and how many did not.

    Args:
        everything: show the cases without a change as well.
    """
    order: tuple[Direction, ...] = (
        *("worse", "failed", "better", "undecided", "only in base", "only in new"),
        *(("no change",) if everything else ()),
    )
    rows = sorted(
        (row for row in comparison.rows if row.direction in order),
        key=lambda row: (order.index(row.direction), -(row.ratio or 0)),
    )
    names = ("", "case", "base", "new", "ratio", "interval", "effect")
    parts: list[RenderableType] = []
    if rows:
        parts.append(_table("Changes", names, [_comparison_cells(row) for row in rows]))
    parts.append(Text(_summary(comparison)))
    if comparison.causes:
        parts.append(_table("Also changed", ("possible cause: base / new",), [comparison.causes]))
    return Group(*parts)


def _comparison_cells(row: Row) -> list[str]:
    return [
        row.direction,
        f"{row.case.label()}\n{row.reason}".strip(),
        "" if row.base is None else format_duration(row.base),
        "" if row.new is None else format_duration(row.new),
        "" if row.ratio is None else f"{row.ratio:.3f}x",
        "" if row.interval is None else " to ".join(f"{end:.2f}" for end in row.interval),
        "" if row.effect_size is None else f"{row.effect_size:+.2f}",
    ]


def _summary(comparison: Comparison) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in comparison.count().most_common())
    drift = "" if comparison.drift is None else f"; median of all ratios {comparison.drift:.3f}x"
    return (
        f"{counts or 'no cases'}{drift}. The ratio is new / base: above 1 is slower. "
        f"All intervals hold together with {comparison.confidence:.0%} confidence; "
        f"changes below {comparison.threshold:.0%} do not count."
    )


def jobs_table(rows: Sequence[Sequence[str]]) -> Table:
    """Jobs of a scheduler's: directory, id, state, time, reason, results."""
    return _table("Jobs", ("directory", "job", "state", "time", "reason", "results"), rows)


def survey_table(found: Survey) -> Group:
    """The figures over all nodes, then the nodes that want a look, then all in one line."""
    figures = [nodes_text.figure_row(each) for each in found.figures if len(each.results) > 1]
    parts: list[RenderableType] = []
    if figures:
        parts.append(_table("Figures over all nodes", nodes_text.FIGURE_COLUMNS, figures))
    if rows := nodes_text.node_rows(found):
        parts.append(_table("Nodes that want a look", nodes_text.NODE_COLUMNS, rows))
    parts += [Text(line) for line in nodes_text.group_lines(found)]
    return Group(*parts, Text(nodes_text.summary(found)))


def doctor_table(rows: Sequence[Mapping[str, str | None]]) -> Table:
    """What this node offers: name, status, found, cost, remedy."""
    names = ("name", "status", "found", "cost", "remedy")
    return _table("This node", names, [[row.get(name) for name in names] for row in rows])


def list_table(what: str, rows: Sequence[Mapping[str, str | bool | None]]) -> Table:
    """Registered kinds: name, available, reason, remedy, summary.

    Args:
        what: the word for them, such as "regions".
    """
    names = ("name", "available", "summary", "reason", "remedy")

    def cell(value: str | bool | None) -> str | None:
        return ("yes" if value else "no") if isinstance(value, bool) else value

    return _table(what, names, [[cell(row.get(name)) for name in names] for row in rows])


def _table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str | None]],
    caption: str | None = None,
) -> Table:
    """A table of plain text: nothing in a cell is taken for rich's markup."""
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=Text(title, style="bold"),
        caption=Text(caption) if caption else None,
        title_justify="left",
        caption_justify="left",
    )
    for column in columns:
        number = column in _NUMBERS
        table.add_column(
            column,
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
            min_width=16 if column in _PROSE else None,
        )
    for row in rows:
        cells = (cell or "" for cell in row)
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells))
    return table
