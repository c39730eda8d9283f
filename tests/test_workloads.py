"""Workloads: each gives a figure over a real channel, and none for messages that did not arrive."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
from needs import need

from shmbench import trial as trial_module
from shmbench.cases import Case
from shmbench.channels import CHANNELS
from shmbench.channels.py_descriptors import PyPipeChannel
from shmbench.errors import ValidationFailed
from shmbench.measure.sampling import SamplingOptions
from shmbench.native import loops
from shmbench.native.endpoint import NullEndpoint
from shmbench.native.histogram import Histogram
from shmbench.trial import Trial, TrialReport, run_trial
from shmbench.workloads import WORKLOADS

TINY = SamplingOptions(batch_s=1e-4, batches=2, retries=1, warmup_batches=2, group_s=0.05)


def measure(workload: str, channel: str | None = None, **axes: object) -> TrialReport:
    found = WORKLOADS.get(workload)
    driver, _, kind = (channel or "native/").partition("/")
    size = axes.pop("size", 4096) if found.has_sizes else None
    assert size is None or isinstance(size, int)
    ranks = axes.pop("ranks", found.default_ranks)
    assert isinstance(ranks, int)
    needs_region = found.uses_region or bool(channel and CHANNELS.get(channel).uses_region)
    case = Case(
        workload=workload,
        driver=driver,
        channel=kind or None,
        region="anonymous" if needs_region else None,
        ranks=ranks,
        placement="0,1",
        message_bytes=size,
        window=found.default_window(size) if size else None,
        **{"pages": "prefault", "variant": found.variants[0], **axes},
    )
    cpus = sorted(os.sched_getaffinity(0))
    return run_trial(Trial(case, tuple(cpus[r % len(cpus)] for r in range(ranks)), TINY))


@pytest.mark.parametrize("channel", ["native/spin", "native/pipe", "native/cma", "python/flag"])
@pytest.mark.parametrize("size", [1, 8, 100_000, 1 << 20])
@pytest.mark.parametrize("workload", ["ping_pong", "stream", "bidirectional"])
def test_two_ranks_give_a_figure_at_every_size(workload: str, channel: str, size: int) -> None:
    report = measure(workload, channel, size=size)
    assert report.failure is None
    assert report.value is not None
    assert report.value > 0


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    "workload", ["bcast", "allreduce", "allgather", "alltoall", "collective_barrier"]
)
def test_collectives_by_hand_need_no_mpi(workload: str, ranks: int) -> None:
    report = measure(workload, variant="shared", ranks=ranks)
    assert report.failure is None
    assert report.value is not None


@pytest.mark.parametrize("size", [1, 4, 1000, 3 << 18, (3 << 18) + 1])
@pytest.mark.parametrize("workload", ["bcast", "allreduce", "allgather", "alltoall"])
def test_collectives_by_hand_take_messages_of_any_size(workload: str, size: int) -> None:
    if workload == "allreduce" and size % 4:
        return  # bytes aren't added up
    report = measure(workload, variant="shared", ranks=3, size=size)
    assert report.failure is None, report.failure


@pytest.mark.parametrize("ranks", [2, 4])
def test_pairs_of_ranks_send_at_once(ranks: int) -> None:
    assert measure("multi_pair", "native/spin", ranks=ranks).failure is None


@pytest.mark.parametrize("channel", ["native/spin", "native/futex", "native/pipe", "python/socket"])
@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("workload", ["fan_out", "fan_in", "barrier"])
def test_more_ranks_than_cpus_give_a_figure_too(workload: str, channel: str, ranks: int) -> None:
    report = measure(workload, channel, ranks=ranks)
    assert report.failure is None


@pytest.mark.parametrize(
    ("workload", "variant"),
    [
        (name, variant)
        for name in ("contention", "memcpy")
        for variant in WORKLOADS.get(name).variants
    ],
)
def test_every_variant_gives_a_figure(workload: str, variant: str) -> None:
    assert measure(workload, variant=variant).failure is None


@pytest.mark.parametrize("pages", ["untouched", "prefault", "thp"])
def test_every_page_state_gives_a_figure_with_its_evidence(pages: str) -> None:
    report = measure("stream", "native/spin", pages=pages)
    assert report.failure is None
    assert report.evidence is not None
    assert report.evidence["pages"] == pages
    assert ("untouched" in report.flags) == (pages == "untouched")


class Broken(PyPipeChannel):
    """A pipe that damages, or repeats, what it carries; which and when is set by the tests."""

    kind = "broken"
    way: ClassVar[str] = "flip"

    def wire_receiver(self, wire: int):  # type: ignore[no-untyped-def]
        end = super().wire_receiver(wire)
        receive = end.recv_into
        kept: list[bytes] = []

        def recv_into(buffer: memoryview) -> int:
            length = receive(buffer)
            if self.way == "flip":
                buffer[length // 2] ^= 1
            elif self.way == "repeat" and kept:
                buffer[:] = kept[0]
            elif self.way == "short":
                return length - 1
            kept.append(bytes(buffer))
            return length

        class Damaging:
            send, post, complete, close = end.send, end.post, end.complete, end.close

        damaging = Damaging()
        damaging.recv_into = recv_into  # type: ignore[attr-defined]
        return damaging


@pytest.mark.parametrize("way", ["flip", "repeat", "short"])
@pytest.mark.parametrize("workload", ["ping_pong", "stream", "fan_in", "barrier"])
def test_a_channel_that_damages_messages_gives_no_figure(
    workload: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "way", way)
    monkeypatch.setitem(CHANNELS._targets, "python/broken", "test_workloads:Broken")
    report = measure(workload, "python/broken")
    assert report.value is None
    assert report.failure is not None
    assert report.failure.type == "ValidationFailed"


def test_the_native_loops_compare_every_number() -> None:
    """A null channel delivers nothing: the second message is not the one that is due."""
    message, buffer = memoryview(bytearray(8)), memoryview(bytearray(8))
    null = NullEndpoint()
    for call in (
        lambda: loops.ping_pong(null, null, message, buffer, 10, True),
        lambda: loops.exchange(null, null, message, buffer, 10, 1),
        lambda: loops.receive_windows([null], null, buffer, 10, 4),
        lambda: loops.send_windows(null, [null], message, 10, 4),
        lambda: loops.disseminate([null], [null], 10),
    ):
        with pytest.raises(ValidationFailed, match="did not arrive"):
            call()


def test_the_histogram_pass_records_every_round_trip_but_the_first() -> None:
    histogram = Histogram()
    message, buffer = memoryview(bytearray(8)), memoryview(bytearray(8))
    null = NullEndpoint()
    loops.ping_pong(null, null, message, buffer, 1000, True, False, histogram)
    assert histogram.count == 999


def test_a_rank_that_is_not_on_its_cpu_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    need(len(cpus) >= 2, "this needs two CPUs", "run it on a machine with two")
    monkeypatch.setattr(trial_module, "pin_to_cpu", lambda cpu: os.sched_setaffinity(0, {cpus[0]}))
    report = measure("ping_pong", "native/pipe")
    assert report.failure is not None
    assert report.failure.type == "ValidationFailed"
    assert f"not on [{cpus[0]}, {cpus[1]}]" in report.failure.message
