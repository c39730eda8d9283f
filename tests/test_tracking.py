"""The engine behind the asv benchmarks: which case, which samples, and what ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shmbench.clean import leftovers
from shmbench.errors import CaseTimeout, ShmbenchError, Unavailable, UsageError
from shmbench.measure.flags import Flag
from shmbench.results import Failure
from shmbench.tracking import UsualDistance, faster_half, find_case, measure
from shmbench.trial import Trial, TrialReport

PIPE = {"channels": ("pipe",), "driver": "native", "sizes": (8,), "placements": ("same_cpu",)}


class Script:
    """A runner that gives these reports, one a trial."""

    def __init__(self, *reports: TrialReport) -> None:
        self.reports = list(reports)

    def run(self, trial: Trial) -> TrialReport:
        return self.reports.pop(0)


def of(*values: float) -> list[TrialReport]:
    return [TrialReport(value=value) for value in values]


def test_a_case_is_found_by_its_axes() -> None:
    case = find_case("ping_pong", **PIPE)
    assert (case.workload, case.channel, case.placement) == ("ping_pong", "pipe", "same_cpu")
    assert find_case("memcpy", variant="one_copy", sizes=(4096,)).variant == "one_copy"


@pytest.mark.parametrize(
    ("workload", "axes"),
    [
        ("ping_pongg", {}),
        ("ping_pong", {"channels": ("sping",)}),
        ("ping_pong", {"chanels": ("spin",)}),
        ("memcpy", {"variant": "three_copies"}),
    ],
)
def test_what_a_version_does_not_have_is_said_so_that_a_benchmark_can_skip(
    workload: str, axes: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        find_case(workload, **axes)  # type: ignore[arg-type]


def test_what_a_machine_cannot_do_is_said_too() -> None:
    with pytest.raises((Unavailable, UsageError)):
        find_case("ping_pong", channels=("spin",), placements=("cross_node,smt",))


def half(
    *reports: TrialReport, groups: int, patience_s: float = 10.0, file: Path | None = None
) -> list[float]:
    """The faster half, by a clock that only waiting moves; all reports have to be used up."""
    now = [0.0]
    runner, distance = Script(*reports), UsualDistance(str(file) if file else None)
    found = faster_half(
        find_case("ping_pong", channels=("spin",), driver="native", sizes=(8,)),
        runner,
        distance,
        groups=groups,
        timeout_s=1,
        patience_s=patience_s,
        clock=lambda: now[0],
        sleep=lambda seconds: now.append(now.pop() + seconds),
    )
    assert not runner.reports
    distance.save()
    return found


def at(hand_over_s: float, *values: float) -> list[TrialReport]:
    return [TrialReport(value=value, hand_overs=[hand_over_s] * 2) for value in values]


def test_the_faster_half_of_the_groups_counts() -> None:
    assert half(*of(5.0, 1.0, 200.0, 2.0, 200.0, 3.0), groups=6) == [1.0, 2.0, 3.0]
    assert half(*of(4.0), groups=1) == [4.0]


def test_a_disturbed_group_is_measured_again_but_not_for_ever() -> None:
    disturbed = TrialReport(value=9.0, flags=[str(Flag.UNTRUSTED)])
    assert half(disturbed, *of(1.0), disturbed, *of(2.0), groups=2) == [1.0]
    assert half(*[disturbed] * 7, groups=2, patience_s=1.0) == [9.0]


def test_a_group_at_another_distance_than_earlier_calls_saw_is_measured_again(
    tmp_path: Path,
) -> None:
    for _ in range(3):
        half(*at(50e-9, 1.0), groups=1, file=tmp_path)
    moved = [*at(200e-9, 9.0), *at(20e-9, 0.1)]
    assert half(*moved, *at(52e-9, 1.0, 2.0), groups=2, file=tmp_path) == [1.0]


def test_a_distance_that_stays_becomes_the_usual_one(tmp_path: Path) -> None:
    half(*at(50e-9, 1.0), groups=1, file=tmp_path)
    for _ in range(3):
        assert half(*at(200e-9, 4.0), groups=1, patience_s=0.0, file=tmp_path) == [4.0]
    assert half(*at(200e-9, 4.0), groups=1, file=tmp_path) == [4.0]


def test_a_group_that_fails_fails_the_benchmark_with_its_reason() -> None:
    failed = TrialReport(failure=Failure(type="PeerFailed", message="rank 1 was killed"))
    with pytest.raises(ShmbenchError, match=r"spin.*rank 1 was killed"):
        half(failed, groups=2)


def test_a_call_gives_one_sample_in_seconds_per_operation_in_the_form_of_asv() -> None:
    found = measure(find_case("ping_pong", **PIPE), timeout_s=60, groups=4)
    assert found["number"] == 1
    (sample,) = found["samples"]
    assert 1e-8 < sample < 1e-2


def test_a_call_that_takes_too_long_ends_with_all_that_it_started() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    start = time.monotonic()
    with pytest.raises(CaseTimeout, match="not done within"):
        measure(find_case("ping_pong", **PIPE), timeout_s=0.5, groups=10_000)
    assert time.monotonic() - start < 10
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_benchmark_that_asv_ends_leaves_no_rank_and_no_segment(
    number: signal.Signals, tmp_path: Path
) -> None:
    axes = {**PIPE, "channels": ("spin",), "regions": ("posix_shm",), "placements": None}
    program = (
        "from shmbench.tracking import find_case, measure\n"
        f"measure(find_case('ping_pong', **{axes!r}), timeout_s=60, groups=10_000)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.DEVNULL, start_new_session=True
    )
    started: list[psutil.Process] = []
    deadline = time.monotonic() + 30
    while len(started) < 4 and time.monotonic() < deadline:  # worker, leader, ranks
        time.sleep(0.02)
        started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 4
    os.killpg(process.pid, number)
    assert process.wait(20) != 0
    assert psutil.wait_procs(started, timeout=10)[1] == []
    if number != signal.SIGKILL:
        assert leftovers() == []
    else:  # the next one that ends, or `shmbench clean`, takes what it had no time for
        measure(find_case("ping_pong", **PIPE), timeout_s=60, groups=1)
        assert leftovers() == []
