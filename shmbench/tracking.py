"""One case, over and over, commit by commit: what a benchmark of asv calls, and gives to asv.

A call measures fresh process groups, in seconds per operation. The host of a virtual machine moves
its CPUs about and takes time away, for a tenth of a second or for ten. So a group is measured again
whose CPUs were at an unusual distance; and since the rest of what a host does makes groups slower,
and hardly ever faster, the faster half of a call's groups counts. Their median is the call's one
sample: groups of one call are as alike as two calls are not (1.5 % and 4 %), and asv, which
interleaves many calls with those of another commit, tests as if all samples were independent.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from shmbench.cases import Case
from shmbench.errors import CaseTimeout, ShmbenchError, UsageError
from shmbench.launch import find_launcher, start
from shmbench.measure.distance import Distances
from shmbench.measure.flags import Flag
from shmbench.measure.placement import read_topology, resolve
from shmbench.measure.sampling import SamplingOptions
from shmbench.registry import nearest
from shmbench.results import Failure, load
from shmbench.runner import TrialRunner
from shmbench.suites import Selection, obstacle, plan
from shmbench.trial import Trial
from shmbench.units import format_duration
from shmbench.worker import Worker

GROUPS = 6
MPI_JOBS = 2
_SAMPLING = SamplingOptions(batch_s=0.002, batches=3, retries=3, warmup_batches=3, group_s=0.05)
_JOB_BUDGET_S = 0.5
_PATIENCE_S = 8.0
_PAUSE_S = 0.2
_CALLS_KEPT = 300


def find_case(workload: str, *, variant: str | None = None, **axes: Any) -> Case:
    """The one case of a workload that the axes choose.

    Args:
        axes: fields of `shmbench.suites.Selection`.

    Raises:
        UsageError: this version has no such workload, variant, kind or axis.
        Unavailable: this machine can't measure it.
    """
    known = {field.name for field in fields(Selection)}
    if unknown := sorted(axes.keys() - known):
        raise UsageError(f"unknown axis {unknown[0]!r}", nearest(unknown[0], known))
    topology = read_topology()
    chosen = plan((Selection((workload,), **axes),), topology, asked_for=True).cases
    for case in chosen:
        if case.workload == workload and case.variant == variant:
            if (why := obstacle(case, topology)) is not None:
                raise why
            return case
    raise UsageError(
        f"{workload} has no case of variant {variant} with {axes}",
        "see `shmbench list workloads`, and name one of each axis",
    )


def measure(case: Case, *, timeout_s: float, groups: int = GROUPS) -> dict[str, Any]:
    """A sample of a case in the form that asv takes for the time of one operation.

    Args:
        timeout_s: of the whole call; keep it below asv's own, which leaves nobody time to clean up.

    Raises:
        ShmbenchError: a group failed.
        CaseTimeout: time is up. Nothing is left running or behind then.
    """
    with _deadline(timeout_s):
        if case.launcher == "mpi":
            values = _of_jobs(case, timeout_s)
        else:
            distance = UsualDistance(os.environ.get("ASV_ENV_DIR"))
            with Worker() as worker:
                values = faster_half(case, worker, distance, groups=groups, timeout_s=timeout_s)
            distance.save()
    return {"samples": [statistics.median(values)], "number": 1}


class UsualDistance:
    """How far apart the ranks' CPUs are most of the time, as far as earlier calls have seen.

    A call lasts half a second, and the host has the CPUs at one distance for seconds, so no call
    knows alone what is usual. Both commits that asv compares are measured in one environment of
    its, so they share a file there.

    Args:
        directory: where the file is; None: this call knows only what it sees.
    """

    def __init__(self, directory: str | None) -> None:
        self._path = Path(directory) / "hand_overs.json" if directory else None
        self._calls: dict[str, list[float]] = {}
        self._seen = Distances()
        self._first: tuple[str, float] | None = None
        if self._path is not None and self._path.exists():
            known = self._path.read_bytes()
            self._calls = msgspec.json.decode(known, type=dict[str, list[float]])
        for pair, hand_overs in self._calls.items():
            self._seen.add([int(cpu) for cpu in pair.split(",")], hand_overs)

    def is_usual(self, cpus: Sequence[int], hand_overs_s: Sequence[float]) -> bool:
        """Was this group measured at the usual distance? It counts for the next ones."""
        self._seen.add(cpus, hand_overs_s)
        if self._first is None and hand_overs_s:
            self._first = ",".join(str(cpu) for cpu in cpus[:2]), hand_overs_s[0]
        return self._seen.is_usual(cpus, hand_overs_s)

    def save(self) -> None:
        """Add the first group of this call to the file: one a call, however many it repeated."""
        if self._path is None or self._first is None:
            return
        pair, hand_over_s = self._first
        self._calls[pair] = [*self._calls.get(pair, []), hand_over_s][-_CALLS_KEPT:]
        fresh = self._path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(msgspec.json.encode(self._calls))
        fresh.replace(self._path)


def faster_half(
    case: Case,
    runner: TrialRunner,
    distance: UsualDistance,
    *,
    groups: int,
    timeout_s: float,
    patience_s: float = _PATIENCE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[float]:
    """The faster half of so many groups, in seconds per operation, the fastest first.

    A group is measured again when it calls itself untrusted, or when its CPUs were at another
    distance than usual; a little later, since that lasts for seconds. When the patience is at its
    end, each group is taken as it comes.

    Args:
        distance: what is usual.
    """
    cpus = resolve(case.placement, case.ranks, read_topology()).cpus
    end = clock() + patience_s
    values: list[float] = []
    while len(values) < groups:
        report = runner.run(Trial(case, cpus, _SAMPLING, timeout_s))
        if report.failure is not None or report.value is None:
            raise _failed(case, report.failure)
        usual = distance.is_usual(cpus, report.hand_overs)
        if (not usual or Flag.UNTRUSTED in report.flags) and clock() < end:
            sleep(_PAUSE_S)
            continue
        values.append(report.value)
    return sorted(values)[: (groups + 1) // 2]


def _of_jobs(case: Case, timeout_s: float) -> list[float]:
    """One median a fresh MPI job."""
    launcher = find_launcher()
    options = ["--workload", case.workload, "--driver", case.driver, "--quick"]
    options += ["--budget", str(_JOB_BUDGET_S), "--timeout", str(timeout_s)]
    if case.channel is not None:
        options += ["--channel", case.channel]
    if case.region is not None:
        options += ["--region", case.region]
    if case.message_bytes is not None:
        options += ["--size", str(case.message_bytes)]
    values = []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "job.json"
        command = ["-m", "shmbench", "run", *options, "--output", str(output)]
        for _ in range(MPI_JOBS):
            status = start(launcher, case.ranks, command, subprocess.DEVNULL)
            if not output.exists():
                raise ShmbenchError(f"{case.label()}: the MPI job ended with status {status}")
            found = [r for r in load(output).results if r.workload == case.workload]
            if len(found) != 1 or found[0].median is None:
                raise _failed(case, found[0].error if found else None)
            values.append(found[0].median)
            output.unlink()
    return values


def _failed(case: Case, failure: Failure | None) -> ShmbenchError:
    if failure is None:
        return ShmbenchError(f"{case.label()}: no figure")
    return ShmbenchError(f"{case.label()}: {failure.type}: {failure.message}", failure.remedy)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise CaseTimeout when time is up; let SIGTERM raise too, so that what is open is closed."""
    end = time.monotonic() + seconds

    def expire(number: int, frame: Any) -> None:
        late = time.monotonic() >= end
        why = f"not done within {format_duration(seconds)}" if late else "terminated"
        raise CaseTimeout(f"the benchmark is {why}")

    before = [signal.signal(number, expire) for number in (signal.SIGALRM, signal.SIGTERM)]
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGALRM, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
