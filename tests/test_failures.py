"""Ranks that die, hang or send wrong bytes: the case ends with an error, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import FORKED_CHANNELS

from shmbench.cases import Case
from shmbench.channels import CHANNELS
from shmbench.measure.sampling import SamplingOptions
from shmbench.regions.names import stale_names
from shmbench.suites import layout
from shmbench.trial import Trial, TrialReport
from shmbench.worker import Worker
from shmbench.workloads import WORKLOADS

ENDLESS = SamplingOptions(batches=1_000_000, group_s=1000.0)


def children(pid: int) -> list[int]:
    try:
        listing = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in listing.split()]
    except FileNotFoundError:
        return []


def in_shm() -> set[str]:
    """What dead processes have left: other runs on this machine may be busy meanwhile."""
    return {path.name for path in stale_names(Path("/dev/shm"))}


def case_of(workload: str, channel: str | None) -> Case:
    """A small case; "driver/kind" names the channel."""
    driver, _, kind = (channel or "native/").partition("/")
    found = WORKLOADS.get(workload)
    needs_region = found.uses_region or bool(channel and CHANNELS.get(channel).uses_region)
    size = 4096 if found.has_sizes else None
    return Case(
        workload=workload,
        variant=found.variants[-1],
        driver=driver,
        channel=kind or None,
        region="posix_shm" if needs_region else None,
        pages="prefault",
        message_bytes=size,
        ranks=found.default_ranks,
        placement="0,1",
        first_touch=0 if needs_region else None,
        window=found.default_window(size) if size else None,
    )


def cpus(case: Case) -> tuple[int, ...]:
    allowed = sorted(os.sched_getaffinity(0))
    return tuple(allowed[rank % len(allowed)] for rank in range(case.ranks))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's tests ignore it otherwise
    try:
        with Worker() as started:
            yield started
    finally:
        signal.signal(signal.SIGHUP, before)


def run_and(
    worker: Worker, case: Case, signal_number: int, delay_s: float, timeout_s: float = 20.0
) -> tuple[TrialReport, int]:
    """Run an endless trial and send a signal to one of its ranks; the report, and which rank."""
    victim = random.randrange(case.ranks)
    pid = worker._process.pid

    def strike() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            ranks = [rank for leader in children(pid) for rank in children(leader)]
            if len(ranks) == case.ranks:
                time.sleep(delay_s)
                os.kill(ranks[victim], signal_number)
                return
            time.sleep(0.001)

    striker = threading.Thread(target=strike)
    striker.start()
    report = worker.run(Trial(case, cpus(case), ENDLESS, timeout_s))
    striker.join()
    assert children(pid) == []
    return report, victim


def every_pair() -> list[tuple[str, str | None]]:
    """Each workload with each channel that it can use between processes."""
    found: list[tuple[str, str | None]] = []
    for name in WORKLOADS.names():
        workload = WORKLOADS.get(name)
        if workload.family != "ipc":
            continue
        if not workload.uses_channel:
            found.append((name, None))
            continue
        found += [
            (name, channel)
            for channel in FORKED_CHANNELS
            if channel.partition("/")[0] in workload.drivers
        ]
    return [pair for pair in found if WORKLOADS.get(pair[0]).fits(case_of(*pair))]


def check_killed_ranks(worker: Worker, workload: str, channel: str | None, times: int) -> None:
    case = case_of(workload, channel)
    before = in_shm()
    for attempt in range(times):
        report, victim = run_and(worker, case, signal.SIGKILL, random.random() * 0.08)
        assert report.failure is not None, attempt
        assert report.failure.type == "PeerFailed"
        assert report.failure.message == f"rank {victim} was killed by SIGKILL"
        assert in_shm() <= before


@pytest.mark.parametrize("channel", FORKED_CHANNELS)
def test_a_killed_rank_ends_the_case_and_is_named(worker: Worker, channel: str) -> None:
    check_killed_ranks(worker, "ping_pong", channel, 1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "times", [pytest.param(3, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.bar)]
)
@pytest.mark.parametrize(("workload", "channel"), every_pair())
def test_killed_ranks_end_as_they_should_each_time(
    worker: Worker, workload: str, channel: str | None, times: int
) -> None:
    check_killed_ranks(worker, workload, channel, times)


@pytest.mark.parametrize("channel", ["native/spin", "native/pipe", "python/semaphore"])
def test_a_rank_that_hangs_ends_the_case_with_its_time_out(worker: Worker, channel: str) -> None:
    report, victim = run_and(worker, case_of("ping_pong", channel), signal.SIGSTOP, 0.05, 1.0)
    assert report.failure is not None
    assert report.failure.type == "CaseTimeout"
    assert str(victim) in report.failure.message
    assert report.failure.remedy is not None


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGHUP, signal.SIGABRT])
def test_other_signals_are_named_as_well(worker: Worker, number: signal.Signals) -> None:
    report, victim = run_and(worker, case_of("stream", "native/spin"), number, 0.05)
    assert report.failure is not None
    assert report.failure.message == f"rank {victim} was killed by {number.name}"


@pytest.mark.parametrize("depth", [0, 1])
def test_the_death_of_leader_or_worker_costs_one_trial_and_no_more(depth: int) -> None:
    case = case_of("ping_pong", "native/spin")
    with Worker() as worker:
        pid = worker._process.pid

        def strike() -> None:
            leader: list[int] = []
            while not leader or not children(leader[0]):
                leader = children(pid)
                time.sleep(0.001)
            os.kill(pid if depth == 0 else leader[0], signal.SIGKILL)

        striker = threading.Thread(target=strike)
        striker.start()
        report = worker.run(Trial(case, cpus(case), ENDLESS, 20.0))
        striker.join()
        assert report.failure is not None
        assert report.failure.type == "PeerFailed"
        again = worker.run(Trial(case, cpus(case), SamplingOptions(batches=3)))
        assert again.failure is None
    assert in_shm() == set()


def test_cases_leave_no_descriptor_mapping_or_segment(worker: Worker) -> None:
    check_nothing_accumulates(worker, 150)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_cases_leave_nothing(worker: Worker) -> None:
    check_nothing_accumulates(worker, 1000)


def check_nothing_accumulates(worker: Worker, times: int) -> None:
    tiny = SamplingOptions(batch_s=1e-4, batches=1, retries=0, warmup_batches=1, group_s=0.01)
    pairs = [pair for pair in every_pair() if pair[0] != "memcpy"]
    pid = worker._process.pid

    def held() -> tuple[int, int]:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        shared = [line for line in maps if line.split()[1].endswith("s")]
        return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(shared)

    def one(number: int) -> None:
        case = case_of(*pairs[number % len(pairs)])
        report = worker.run(Trial(case, cpus(case), tiny))
        assert report.failure is None, (case.label(), report.failure)

    for number in range(len(pairs)):
        one(number)
    before, names = held(), in_shm()
    for number in range(times):
        one(number)
    assert held() == before
    assert in_shm() <= names
    assert children(pid) == []


def test_the_region_of_a_case_has_room_for_all_that_is_in_it() -> None:
    for workload, channel in every_pair():
        case = case_of(workload, channel)
        _, _, region = layout(case)
        opens_it_by_itself = bool(WORKLOADS.get(workload).regions)
        assert (region is None) == (case.region is None or opens_it_by_itself)
