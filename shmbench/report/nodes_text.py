"""What a survey of nodes says, as text: the same words on a terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median as middle

from shmbench.report import text
from shmbench.survey import Figure, Finding, NodeVerdict, Survey
from shmbench.units import format_duration

NODE_COLUMNS = ("node", "status", "time", "in what", "likely cause")
FIGURE_COLUMNS = ("figure", "nodes", "fastest", "median", "spread", "slowest", "")

_FINDINGS_SHOWN = 3
_CAUSES_SHOWN = 3
_SLOWEST_SHOWN = 3


def summary(found: Survey) -> str:
    """All nodes in one line, and the rule that they were judged by."""
    counts = [
        f"{len(found.of(status))} {status}"
        for status in ("ok", "slow", "disturbed", "incomplete", "failed")
        if found.of(status)
    ]
    count = len(found.verdicts)
    return (
        f"{count} {'node' if count == 1 else 'nodes'}: {', '.join(counts)}. Slow is "
        f"{found.rule.least_ratio - 1:.0%} or more above the median of the same hardware, and out "
        f"of its spread: {found.rule.false_alarms:g} false alarms are expected in all."
    )


def group_lines(found: Survey) -> list[str]:
    """The kinds of hardware, where there is more than one: they are not held against each other."""
    if len(found.groups) < 2:
        return []
    return [
        f"hardware {number + 1}: {_hosts(group.hosts)}"
        + (f"; differs: {'; '.join(group.differs)}" if group.differs else "")
        + ("; alone, so there is nothing to hold it against" if len(group.hosts) == 1 else "")
        for number, group in enumerate(found.groups)
    ]


def _hosts(hosts: Sequence[str]) -> str:
    shown = ", ".join(hosts[:8])
    return shown if len(hosts) <= 8 else f"{shown} and {len(hosts) - 8} more"


def node_rows(found: Survey) -> list[list[str]]:
    """A row for each node that wants a look."""
    return [
        [
            verdict.host,
            verdict.status,
            "" if verdict.ratio is None else f"{verdict.ratio:.2f}x",
            "\n".join(_finding(each) for each in verdict.findings[:_FINDINGS_SHOWN])
            + _more(len(verdict.findings) - _FINDINGS_SHOWN)
            or (verdict.error or ""),
            "\n".join(str(cause) for cause in verdict.causes[:_CAUSES_SHOWN]) or _no_cause(verdict),
        ]
        for verdict in found.verdicts
        if verdict.status != "ok"
    ]


def _finding(finding: Finding) -> str:
    return f"{finding.figure}: {finding.ratio:.2f}x (limit {finding.limit:.2f}x)"


def _more(count: int) -> str:
    return f"\nand {count} more" if count > 0 else ""


def _no_cause(verdict: NodeVerdict) -> str:
    if verdict.status not in ("slow", "disturbed"):
        return ""
    return "nothing that its peers don't have: look at its clock, heat and memory modules"


def figure_row(figure: Figure) -> list[str]:
    """One figure over all nodes: its middle, its spread, and the slowest nodes."""
    times = figure.times()
    centre = middle(times)
    mad = middle(abs(time - centre) for time in times)
    slowest = [
        f"{host} {(result.median or 0) / centre:.2f}x"
        for host, result in reversed(figure.results.items())
    ]
    fastest = next(iter(figure.results))
    return [
        label(figure),
        str(len(times)),
        f"{fastest} {times[0] / centre:.2f}x",
        format_duration(centre),
        f"{mad / centre:.1%}",
        ", ".join(slowest[:_SLOWEST_SHOWN]),
        f"{len(figure.slow)} slow" if figure.slow else "",
    ]


def label(figure: Figure) -> str:
    """The case, and which hardware it is on where that isn't the largest group."""
    return figure.case.label() + (f", hardware {figure.group + 1}" if figure.group else "")


def ranking(figure: Figure) -> list[list[str]]:
    """All nodes, the slowest first: place, node, time, times the median."""
    centre = middle(figure.times())
    rows = reversed(list(enumerate(figure.results.items(), start=1)))
    return [
        [
            str(place),
            host,
            text.median(result),
            f"{(result.median or 0) / centre:.2f}x",
            "slow" if host in figure.slow else "",
        ]
        for place, (host, result) in rows
    ]
