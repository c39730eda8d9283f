"""From a collected result file to a verdict on each node.

Nodes are judged within groups of the same hardware, by the facts of their machines; what is not
known tells no two apart. What counts as slow is in `shmbench.survey.law`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from shmbench import machine
from shmbench.cases import Case
from shmbench.measure.flags import Flag
from shmbench.results import NodeRun, Result, ResultFile
from shmbench.survey.causes import Cause, Peers
from shmbench.survey.law import Rule, Verdicts, judge

Status = Literal["ok", "slow", "disturbed", "incomplete", "failed"]
STATUSES: tuple[Status, ...] = ("failed", "slow", "disturbed", "incomplete", "ok")

_AGGREGATE_LEAST = 3  # figures that make up a row of their own
_DISTURBED_SHARE = 0.5  # of a node's figures
_NORMAL_95 = 1.96
_NOISE_UNKNOWN = 0.05  # of a single group


@dataclass(frozen=True)
class Finding:
    """One thing in which a node is slower than its peers.

    Attributes:
        figure: "all figures", a workload and driver, or a case's label.
        case: the case, where it is a single one.
        ratio: times the median of the peers.
        limit: the ratio from which it counts.
    """

    figure: str
    case: Case | None
    ratio: float
    limit: float


@dataclass
class NodeVerdict:
    """What is to be said about a node.

    Attributes:
        status: failed: it gave no figure; incomplete: its run was cut short, or cases failed;
    XX
        ratio: the median over its figures of the time against the peers' median; None without any.
        findings: in what it is slower, the farthest first.
        causes: the likely ones first; none for a node that is ok.
        error: why figures are missing.
    """

    node: NodeRun
    group: int
    status: Status = "ok"
    ratio: float | None = None
    findings: list[Finding] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    error: str | None = None

    @property
    def host(self) -> str:
        return self.node.host


@dataclass(frozen=True)
class Group:
    """Nodes of the same hardware.

    Attributes:
        differs: in what from the largest group, one line a fact.
    """

    hosts: list[str]
    differs: list[str]


@dataclass(frozen=True)
class Figure:
    """One case on all nodes of a group that measured it.

    Attributes:
        results: by host, the fastest first.
        slow: the hosts that are outliers in it.
    """

    case: Case
    group: int
    results: dict[str, Result]
    slow: set[str]

    def times(self) -> list[float]:
        """Seconds per operation, in the order of `results`."""
        return [result.median or 0.0 for result in self.results.values()]


@dataclass
class Survey:
    """All verdicts, those that want a look first, and the figures behind them."""

    rule: Rule
    groups: list[Group]
    verdicts: list[NodeVerdict]
    figures: list[Figure]

    def of(self, status: Status) -> list[NodeVerdict]:
        """The verdicts with a status."""
        return [verdict for verdict in self.verdicts if verdict.status == status]

    def typical(self) -> str | None:
        """The sound node closest to the median of its peers; None where none has a figure."""
        measured = [each for each in self.verdicts if each.ratio is not None]
        if not measured:
            return None
        return min(
            measured, key=lambda each: (each.status != "ok", abs((each.ratio or 1) - 1))
        ).host


def survey(file: ResultFile, rule: Rule | None = None) -> Survey:
    """Judge the nodes of a file, collected or of one run over MPI."""
    rule = rule or Rule()
    nodes = {node.host: node for node in file.nodes or ()}
    by_host: dict[str, list[Result]] = {host: [] for host in nodes}
    for result in file.results:
        nodes.setdefault(result.host, NodeRun(host=result.host))
        by_host.setdefault(result.host, []).append(result)
    groups = _hardware_groups(list(nodes.values()))
    verdicts: list[NodeVerdict] = []
    figures: list[Figure] = []
    for number, group in enumerate(groups):
        judged = [NodeVerdict(nodes[host], number) for host in group.hosts]
        figures += _judge_group(number, judged, by_host, rule)
        _explain(judged, by_host)
        verdicts += judged
    verdicts.sort(key=lambda each: (STATUSES.index(each.status), -(each.ratio or 0.0)))
    return Survey(rule, groups, verdicts, figures)


def _hardware_groups(nodes: Sequence[NodeRun]) -> list[Group]:
    """The largest first; a node joins the first group from which nothing that is known differs."""
    found: list[list[NodeRun]] = []
    for node in sorted(nodes, key=lambda node: not node.machine):
        for group in found:
            if not machine.differences(group[0].machine, node.machine):
                group.append(node)
                break
        else:
            found.append([node])
    found.sort(key=len, reverse=True)
    return [
        Group(
            [node.host for node in group],
            [
                line
                for line in machine.differences(found[0][0].machine, group[0].machine)
                if not line.startswith("hostname:")
            ],
        )
        for group in found
    ]


def _judge_group(
    number: int,
    verdicts: Sequence[NodeVerdict],
    by_host: Mapping[str, Sequence[Result]],
    rule: Rule,
) -> list[Figure]:
    """Fill in ratio and findings of each verdict; gives the figures of the group.

    A figure that can't be trusted convicts nobody; many of them make a node "disturbed".
    """
    by_case: dict[Case, dict[str, Result]] = {}
    for verdict in verdicts:
        for result in by_host[verdict.host]:
            if result.median and result.error is None:
                by_case.setdefault(result.case(), {})[verdict.host] = result
    cases = list(by_case)
    times = np.full((len(verdicts), len(cases)), np.nan)
    noise = np.zeros_like(times)
    for column, case in enumerate(cases):
        for row, verdict in enumerate(verdicts):
            found = by_case[case].get(verdict.host)
            if found is not None and Flag.UNTRUSTED not in found.flags:
                times[row, column] = found.median or np.nan
                noise[row, column] = _noise(found)
    aggregates = _aggregates(cases)
    together, single = judge(times, noise, list(aggregates.values()), rule)
    for row, verdict in enumerate(verdicts):
        rows: list[tuple[str, Case | None]] = [(name, None) for name in aggregates]
        verdict.findings = _findings(together, row, rows)
        verdict.findings += _findings(single, row, [(case.label(), case) for case in cases])
        measured = single.ratio[row][~np.isnan(single.ratio[row])]
        verdict.ratio = float(np.median(measured)) if len(measured) else None
    slow = single.slow
    return [
        Figure(
            case,
            number,
            dict(sorted(by_case[case].items(), key=lambda item: item[1].median or 0.0)),
            {verdicts[int(row)].host for row in np.flatnonzero(slow[:, column])},
        )
        for column, case in enumerate(cases)
    ]


def _noise(result: Result) -> float:
    """The relative standard error of a median, as its interval says it; a guess without one."""
    if result.ci is None or not result.median:
        return _NOISE_UNKNOWN
    return (result.ci[1] - result.ci[0]) / (2 * _NORMAL_95 * result.median)


def _aggregates(cases: Sequence[Case]) -> dict[str, list[int]]:
    """The rows made up of several figures: name -> columns."""
    found: dict[str, list[int]] = {}
    for column, case in enumerate(cases):
        found.setdefault("all figures", []).append(column)
        found.setdefault(f"{case.workload}, {case.driver}", []).append(column)
    whole = len(cases)
    return {
        name: columns
        for name, columns in found.items()
        if len(columns) >= _AGGREGATE_LEAST and (name == "all figures" or len(columns) < whole)
    }


def _findings(
    verdicts: Verdicts, row: int, names: Sequence[tuple[str, Case | None]]
) -> list[Finding]:
    found = [
        Finding(name, case, float(verdicts.ratio[row, column]), float(verdicts.limit[row, column]))
        for column, (name, case) in enumerate(names)
        if verdicts.slow[row, column]
    ]
    return sorted(found, key=lambda finding: -finding.ratio / finding.limit)


def _explain(verdicts: Sequence[NodeVerdict], by_host: Mapping[str, Sequence[Result]]) -> None:
    """Fill in status and causes."""
    for verdict in verdicts:
        results = by_host[verdict.host]
        failed = [result for result in results if result.error is not None]
        verdict.error = _why_incomplete(verdict.node, failed)
        if not any(result.median for result in results):
            verdict.status = "failed"
            verdict.error = verdict.error or "it has no figure"
        elif verdict.findings:
            verdict.status = "slow"
        elif _untrusted_share(results) > _DISTURBED_SHARE:
            verdict.status = "disturbed"
        elif verdict.error is not None:
            verdict.status = "incomplete"
    suspects = [each for each in verdicts if each.status in ("failed", "slow", "disturbed")]
    if not suspects:
        return
    sound = [verdict for verdict in verdicts if verdict not in suspects] or verdicts
    peers = Peers([(each.node, by_host[each.host]) for each in sound])
    for verdict in suspects:
        slow_cases = [finding.case for finding in verdict.findings if finding.case]
        verdict.causes = peers.causes(verdict.node, by_host[verdict.host], slow_cases)


def _untrusted_share(results: Sequence[Result]) -> float:
    flagged = Counter(Flag.UNTRUSTED in result.flags for result in results if result.median)
    return flagged[True] / max(1, flagged.total())


def _why_incomplete(node: NodeRun, failed: Sequence[Result]) -> str | None:
    if node.error is not None:
        return node.error.message
    if not failed:
        return None
    first = failed[0]
    assert first.error is not None
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{first.case().label()}: {first.error.message}{more}"
