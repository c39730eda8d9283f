"""One offline HTML file: conditions, warnings, plots, and every result in a table."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from shmbench import machine, peers
from shmbench.errors import Unavailable
from shmbench.report import nodes_text, text
from shmbench.report.figures import figures
from shmbench.report.nodes_figure import node_figures
from shmbench.report.policy_figure import policy_figures
from shmbench.results import Result, ResultFile
from shmbench.survey import Survey, survey

# The facts that stand at the top; the others are folded away.
_HEADLINE_FACTS = (
    *("hostname", "cpu_model", "cpus_online", "cores", "numa_nodes", "l3_bytes", "memory_bytes"),
    *("hypervisor", "kernel", "governor", "thp_enabled", "python"),
)
_PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")

# Of more nodes than these, the table has the results of those only that want a look.
_NODES_LISTED_MAX = 16


@dataclass(frozen=True)
class _Column:
    """A column of the table: its text, and what it is sorted by (its text, where None)."""

    title: str
    show: Callable[[Result], str]
    key: Callable[[Result], float | None] | None = None


def _percentile_column(name: str) -> _Column:
    return _Column(
        name,
        lambda result: text.percentile(result, name),
        lambda result: (result.percentiles or {}).get(name),
    )


_COLUMNS = (
    _Column("node", lambda result: result.host),
    _Column("workload", lambda result: result.workload),
    _Column("driver", lambda result: result.driver),
    _Column("channel", lambda result: result.channel or ""),
    _Column("variant", lambda result: result.variant or ""),
    _Column("size", text.size, lambda result: result.message_bytes),
    _Column("median", text.median, lambda result: result.median),
    _Column("per", lambda result: result.operation or ""),
    _Column("95 % interval", text.interval, lambda result: result.ci[0] if result.ci else None),
    *(_percentile_column(name) for name in _PERCENTILES),
    _Column("bandwidth", text.byte_rate, lambda result: result.bytes_per_second),
    _Column(
        "operations",
        text.operation_rate,
        lambda result: 1 / result.median if result.median and result.bytes_per_second else None,
    ),
    _Column("limit", lambda result: result.limit.name if result.limit else ""),
    _Column("of limit", text.of_limit, lambda result: result.limit.ratio if result.limit else None),
    _Column("region", lambda result: result.region or ""),
    _Column("directory", lambda result: result.directory or ""),
    _Column("pages", lambda result: result.pages or ""),
    _Column("numa", lambda result: result.numa or ""),
    _Column("policy", lambda result: result.policy or ""),
    _Column("cache", lambda result: result.cache or ""),
    _Column(
        "file",
        text.file_size,
        lambda result: result.file_bytes,
    ),
    _Column("placement", text.where),
    _Column("ranks", lambda result: str(result.ranks), lambda result: result.ranks),
    _Column("first touch", lambda r: "" if r.first_touch is None else f"rank {r.first_touch}"),
    _Column("window", lambda result: str(result.window or ""), lambda result: result.window),
    _Column("copies", lambda r: "" if r.copies is None else str(r.copies), lambda r: r.copies),
    _Column("also", text.further),
    _Column("launcher", lambda result: result.launcher),
    _Column("groups", lambda result: str(result.groups), lambda result: result.groups),
    _Column("flags", lambda result: " ".join(result.flags)),
    _Column("error", lambda result: result.error.message if result.error else ""),
)


def write_report(files: Sequence[ResultFile], path: Path) -> None:
    """Write the report of these runs to one file, which asks for nothing from anywhere.

    Raises:
        Unavailable: jinja2 or plotly is not installed.
        OSError: the file can't be written.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise Unavailable(
            "report needs jinja2 and plotly", "pip install 'shmbench[report]'"
        ) from error
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    runs = [_Run(file) for file in files]
    page = environment.get_template("page.html.jinja").render(
        runs=runs,
        several=len(runs) > 1,
        drivers=text.DRIVERS,
        legend=text.legend(
            flag for file in files for result in file.results for flag in result.flags
        ),
        peers=peers.table() if any(run.by_mpi() for run in runs) else [],
        plots=_interleaved([run.plots() for run in runs]),
        columns=_filled_columns(runs),
        plotlyjs=get_plotlyjs(),
        # Only scripts with this word run, whatever else might get into the page.
        nonce=secrets.token_hex(16),
    )
    path.write_text(page, encoding="utf-8")


class _Run:
    """One result file, as the template wants it."""

    def __init__(self, file: ResultFile) -> None:
        self.file = file
        hosts = dict.fromkeys(result.host for result in file.results)
        self.survey: Survey | None = survey(file) if file.nodes or len(hosts) > 1 else None
        few = len(hosts) <= _NODES_LISTED_MAX
        named = ", ".join(hosts) or str(file.machine.get("hostname") or "no results")
        self.host = named if few else f"{len(hosts)} nodes"
        self.label = f"{self.host} · {_date(file.created)}"
        self.failed = [result for result in file.results if result.error is not None]
        self.flagged = sum(bool(result.flags) for result in file.results)

    def by_mpi(self) -> bool:
        """Were any ranks an MPI job's?"""
        return any(result.launcher == "mpi" for result in self.file.results)

    def facts(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """The machine's facts that are known: those at the top, and the others."""
        known = {key: value for key, value in self.file.machine.items() if value is not None}
        top = [key for key in _HEADLINE_FACTS if key in known]
        others = [key for key in known if key not in top]

        def shown(keys: list[str]) -> list[tuple[str, str]]:
            return [(_words(key), machine.show(key, known[key])) for key in keys]

        return shown(top), shown(others)

    def plan(self) -> str:
        """What was asked for, and how it went."""
        asked = ((key, value) for key, value in self.file.plan.items() if key not in _SHOWN_APART)
        return ", ".join(f"{_words(key)} {_value(key, value)}" for key, value in asked if value)

    def left_out(self) -> list[tuple[str, str]]:
        """(case, why) of what was asked for and can't be measured here."""
        found = self.file.plan.get("left_out")
        return [(str(case), str(why)) for case, why in found.items()] if found else []

    def nodes(self) -> dict[str, Any] | None:
        """Of several nodes: what is to be said about them; None for one."""
        found = self.survey
        if found is None:
            return None
        return {
            "summary": nodes_text.summary(found),
            "groups": nodes_text.group_lines(found),
            "columns": nodes_text.NODE_COLUMNS,
            "rows": nodes_text.node_rows(found),
            "outside": self.file.plan.get("outside_references") or [],
        }

    def listed(self) -> list[Result]:
        """The results for the table: of very many nodes, of those only that want a look."""
        results = self.file.results
        if self.survey is None or len(self.survey.verdicts) <= _NODES_LISTED_MAX:
            return results
        shown = [each.host for each in self.survey.verdicts if each.status != "ok"]
        hosts = set(shown[:_NODES_LISTED_MAX])
        return [result for result in results if result.host in hosts]

    def plots(self) -> list[dict[str, Any]]:
        """Each figure, and the run that it belongs to. Of several nodes: all of them, then one."""
        results, label, compared = self.file.results, self.label, []
        if self.survey is not None:
            compared = node_figures(self.survey)
            host = self.survey.typical()
            results = [result for result in results if result.host == host]
            label = f"{label} · {host}, the node closest to the median"
        own = [*policy_figures(results), *figures(results)]
        return [
            asdict(figure) | {"run": run}
            for drawn, run in ((compared, self.label), (own, label))
            for figure in drawn
        ]


def _interleaved(plots: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The plots of all runs, those with the same title one after the other."""
    by_title: dict[str, list[dict[str, Any]]] = {}
    for of_run in plots:
        for plot in of_run:
            by_title.setdefault(plot["title"], []).append(plot)
    return [plot for same in by_title.values() for plot in same]


_SHOWN_APART = ("left_out", "outside_references")


def _words(key: str) -> str:
    """A key as words; its unit is left out where the value is shown with it."""
    return key.removesuffix("_bytes").removesuffix("_s").replace("_", " ")


def _value(key: str, value: object) -> str:
    """A value of the plan, whose keys are the runner's own."""
    if isinstance(value, dict):
        return ", ".join(f"{_words(name)} {_value(name, item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(map(str, value)) if key == "groups" else ",".join(map(str, value))
    return f"{value} s" if key.endswith("_s") else str(value)


def _date(created: str) -> str:
    """ISO time, to the minute; what is none is shown as it is."""
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return created


def _filled_columns(runs: Sequence[_Run]) -> list[_Column]:
    """Those that say something about any result."""
    results = [result for run in runs for result in run.listed()]
    several = len({result.host for result in results}) > 1
    return [
        column
        for column in _COLUMNS
        if any(map(column.show, results)) and (several or column.title != "node")
    ]
