"""A whole run for the command line: options to a plan, the plan to a result file, with progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self

from shmbench import __version__, machine
from shmbench.cases import CACHES
from shmbench.errors import UsageError
from shmbench.measure.placement import Topology, read_topology
from shmbench.measure.sampling import SamplingOptions
from shmbench.measure.stopping import StoppingRule
from shmbench.native.clock import clock_cost_ns, clock_step_ns
from shmbench.regions import PAGES, REGIONS
from shmbench.registry import nearest
from shmbench.results import SCHEMA, Result, ResultFile, save
from shmbench.runner import Effort, Run
from shmbench.suites import SUITES, Plan, Selection, plan, suite
from shmbench.worker import Worker
from shmbench.workloads import WORKLOADS
from shmbench.workloads.policies import POLICIES

_CHOSEN_BUDGET_S = 60.0
_QUICK_BUDGET_S = 20.0
_LINES_EVERY_S = 10.0
_ROUND_S = 0.7
_CHECKPOINTS_APART = 10  # times as long as one takes


class _Progress(Protocol):
    """Shows how far a run is."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, share: float, label: str) -> None:
        """`share` of the run is done; `label` is measured now."""


class _Bar:
    """A progress bar on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.percentage:>3.0f} %"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,  # a refreshing thread would disturb what is measured
        )
        self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, share: float, label: str) -> None:
        self._bar.update(self._task, completed=share, description=label, refresh=True)


class Lines:
    """A plain line now and then, for logs."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, share: float, label: str) -> None:
        now = time.monotonic()
        if now - self._last >= _LINES_EVERY_S:
            self._last = now
            print(f"{share:4.0%} {now - self._start:5.0f} s  {label}", file=sys.stderr, flush=True)


def shown_progress() -> _Progress:
    """A bar on a terminal, lines elsewhere."""
    return _Bar() if sys.stderr.isatty() else Lines()


_POLICY_AXES = ("policies", "caches", "file_sizes")


def check_axes(axes: dict[str, Any]) -> None:
    """Names that the plan would otherwise find too late, or never."""
    for name in axes.get("workloads") or ():
        WORKLOADS.get(name)
    for name in axes.get("regions") or ():
        REGIONS.get(name)
    for name in axes.get("policies") or ():
        POLICIES.get(name)
    for name in axes.get("caches") or ():
        if name not in CACHES:
            raise UsageError(f"unknown cache state {name!r}", nearest(name, CACHES))
    for name in axes.get("pages") or ():
        if name not in PAGES:
            raise UsageError(f"unknown page state {name!r}", nearest(name, PAGES))
    for directory in axes.get("directories") or ():
        if not Path(directory).is_dir():
            raise UsageError(f"--dir {directory}: no such directory", "create it, or name another")
    ranks = axes.get("ranks")
    for name in axes.get("workloads") or ():
        most = WORKLOADS.get(name).max_ranks
        if ranks is not None and most is not None and ranks > most:
            raise UsageError(f"{name} takes {most} ranks, not {ranks}", f"use --ranks {most}")
    touching = axes.get("first_touch")
    if touching is not None and touching >= (ranks or 2):
        raise UsageError(
            f"--first-touch {touching}: ranks are 0 to {(ranks or 2) - 1}",
            "name one of them, or raise --ranks",
        )


def selections(name: str | None, axes: dict[str, Any]) -> tuple[Selection, ...]:
    """The suite's selections with the given axes in place of its own, or one of them alone."""
    given = {key: value for key, value in axes.items() if value is not None}
    known = {each.name for each in fields(Selection)}
    assert set(given) <= known, given
    if name is None and given:
        # An axis that only one of the two families has says which one is meant.
        family = "policy" if any(axis in given for axis in _POLICY_AXES) else "ipc"
        named = (n for n in WORKLOADS.names() if WORKLOADS.get(n).family == family)
        base = Selection(tuple(n for n in named if n != "memcpy"))
        return (replace(base, **given),)
    chosen = suite(name or "quick").selections
    wanted = given.pop("workloads", None)
    if wanted is not None:
        chosen = tuple(
            replace(each, workloads=tuple(w for w in each.workloads if w in wanted))
            for each in chosen
        )
    return tuple(replace(each, **given) for each in chosen)


def effort_of(name: str | None, given: bool, budget_s: float | None, quick: bool) -> dict[str, Any]:
    """How much a suite, or what was given, may take: arguments of Effort."""
    if quick:
        return {
            "budget_s": budget_s or _QUICK_BUDGET_S,
            "rule": StoppingRule(min_groups=2, max_groups=3),
            "sampling": SamplingOptions(batches=5, retries=3, warmup_batches=5, group_s=0.3),
        }
    if name is None and given:
        return {
            "budget_s": budget_s or _CHOSEN_BUDGET_S,
            "rule": StoppingRule(min_groups=10, max_groups=30),
            "round_s": _ROUND_S,
        }
    return {
        "budget_s": budget_s or SUITES[name or "quick"].budget_s,
        "rule": StoppingRule(max_groups=10),
        "sampling": SamplingOptions(batches=6, retries=6, warmup_batches=6, group_s=0.5),
    }


def plan_of(name: str | None, axes: dict[str, Any], topology: Topology) -> Plan:
    """The cases of a suite or a choice; the axes were checked. Raises as `measure` does."""
    asked_for = name is None and any(value is not None for value in axes.values())
    chosen = plan(selections(name, axes), topology, asked_for=asked_for)
    if not chosen.cases:
        raise UsageError("nothing to measure: no case fits all options", why_nothing(chosen))
    return chosen


def measure(
    name: str | None,
    axes: dict[str, Any],
    *,
    output: Path | None,
    budget_s: float | None,
    timeout_s: float,
    quick: bool,
    doctor: bool = False,
) -> ResultFile:
    """Measure a suite or a choice, and keep the result file up to date meanwhile.

    Args:
        name: of the suite; None: what the axes choose, or quick where they choose nothing.
        axes: fields of Selection; those that are None are left as they are.
        doctor: ask the doctor first, and keep what it finds in the result file.

    Raises:
        UsageError: an unknown name, or a choice with no case in it.
        Unavailable: a placement that this machine lacks.
    """
    topology = read_topology()
    check_axes(axes)
    chosen = plan_of(name, axes, topology)
    given = any(value is not None for value in axes.values())
    effort = Effort(timeout_s=timeout_s, **effort_of(name, given, budget_s, quick))
    file = new_file(name, axes, effort, chosen, doctor=doctor)
    with Worker() as worker:
        _measure(file, chosen, topology, effort, output, worker)
    return file


def why_nothing(chosen: Plan) -> str:
    """The remedy for a plan that has no case."""
    for label, why in chosen.left_out.items():
        return f"left out: {label}: {why}"
    return "see `shmbench list` for what goes together"


def new_file(
    name: str | None, axes: dict[str, Any], effort: Effort, chosen: Plan, *, doctor: bool
) -> ResultFile:
    """A result file without results yet, with what the doctor finds where that is wanted."""
    facts = machine.facts()
    facts["clock_read_ns"] = round(clock_cost_ns(), 1)
    facts["clock_step_ns"] = clock_step_ns()
    return ResultFile(
        schema=SCHEMA,
        machine=facts,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        plan={
            "suite": name,
            "options": {key: value for key, value in axes.items() if value is not None},
            "cases": len(chosen.cases),
            "budget_s": effort.budget_s,
            "groups": [effort.rule.min_groups, effort.rule.max_groups],
            "target": effort.rule.target,
            "timeout_s": effort.timeout_s,
            "shmbench": __version__,
            "left_out": {label: str(why) for label, why in chosen.left_out.items()},
            "elapsed_s": 0.0,
            "interrupted": True,  # until it is not
        },
        results=[],
        doctor=_findings() if doctor else None,
    )


def _findings() -> list[dict[str, str | None]]:
    from shmbench.doctor import as_dicts, checks

    return as_dicts(checks())


class Record:
    """Keeps the result file up to date: after each round, and between trials now and then.

    So a kill costs little of what was measured, and keeping costs little of the time.

    Args:
        gather: the results so far.
        write: keeps the file.
    """

    def __init__(
        self, file: ResultFile, gather: Callable[[], list[Result]], write: Callable[[], None]
    ) -> None:
        self._file = file
        self._gather = gather
        self._write = write
        self._at = time.monotonic()
        self._start = self._at - file.plan["elapsed_s"]
        self._cost_s = 0.0

    def keep(self) -> None:
        """Bring the file up to date."""
        before = time.monotonic()
        self._file.results = self._gather()
        self._file.plan["elapsed_s"] = round(before - self._start, 1)
        self._write()
        self._at = time.monotonic()
        self._cost_s = self._at - before

    def keep_if_due(self) -> None:
        """... where it takes a small part of the time."""
        if time.monotonic() - self._at > _CHECKPOINTS_APART * self._cost_s:
            self.keep()


def _measure(
    file: ResultFile,
    chosen: Plan,
    topology: Topology,
    effort: Effort,
    output: Path | None,
    worker: Worker,
) -> None:
    progress = shown_progress()

    def explain(share: float, label: str) -> None:
        record.keep_if_due()
        progress.show(share, label)

    def write() -> None:
        if output is not None:
            save(file, output)

    session = Run(chosen.cases, topology, effort, explain=explain, checkpoint=lambda: record.keep())
    record = Record(file, session.results, write)
    with suppress(KeyboardInterrupt), progress:
        session.measure(worker)
        file.plan["interrupted"] = False
    record.keep()
