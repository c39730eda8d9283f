"""The contract of channels for each kind of the python driver, and what is special to one."""

from __future__ import annotations

import gc
import platform
import resource
import threading

import channel_harness as harness
import pytest
from forked import FORKED_CHANNELS
from needs import need

from shmbench.channels import CHANNELS, Channel, ChannelSpec
from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.group.process import ProcessGroup, run_ranks

DELIVERING = [
    name for name in FORKED_CHANNELS if name.startswith("python/") and name != "python/null"
]
TELLING = ["python/mp_pipe", "python/socket", "python/pipe"]  # those that notice a dead peer
WITH_DESCRIPTORS = ["python/posix_mq", "python/mp_queue", *TELLING]


def available(name: str) -> type[Channel]:
    """The class of a name, where this machine can carry it."""
    channel_class = CHANNELS.get(name)
    reason = channel_class.probe()
    if reason is not None:
        need(False, reason.message, reason.remedy or "")
    return channel_class


@pytest.fixture(params=DELIVERING)
def channel_class(request: pytest.FixtureRequest) -> type[Channel]:
    return available(request.param)


@pytest.mark.parametrize("message_bytes", harness.DELIVERY_SIZES)
def test_messages_arrive_whole_and_in_order(
    channel_class: type[Channel], message_bytes: int
) -> None:
    harness.check_delivery(channel_class, message_bytes)


def test_each_message_of_a_link_reaches_all_of_its_targets(channel_class: type[Channel]) -> None:
    harness.check_fan_out(channel_class)


def test_messages_of_several_links_to_one_rank_are_told_apart(
    channel_class: type[Channel],
) -> None:
    harness.check_fan_in(channel_class)


def test_both_ranks_may_post_what_may_be_in_flight_before_either_receives(
    channel_class: type[Channel],
) -> None:
    for message_bytes in harness.inflight_sizes(channel_class):
        harness.check_both_directions(channel_class, message_bytes)


def test_a_buffer_that_is_too_small_is_an_error(channel_class: type[Channel]) -> None:
    harness.check_too_small_buffer(channel_class)


def test_neither_descriptors_nor_names_are_left(channel_class: type[Channel]) -> None:
    harness.check_nothing_left(channel_class, rounds=40)


def test_an_end_that_is_closed_says_so(channel_class: type[Channel]) -> None:
    def body(channel: Channel, group: Group) -> bytes:
        if group.rank == 0:
            end = channel.sender(0)
            end.close()
            end.close()
            with pytest.raises((OSError, ValueError)):
                end.send(memoryview(b"8 bytes."))
        return b"done"

    assert harness.run(channel_class, harness.ONE_WAY, 8, body) == [b"done"] * 2


@pytest.mark.parametrize("name", TELLING)
def test_who_waits_for_a_dead_peer_gets_an_error(name: str) -> None:
    harness.check_dead_peer(available(name))


@pytest.mark.parametrize("name", WITH_DESCRIPTORS)
def test_too_few_descriptors_make_a_channel_unavailable_and_none_is_left(name: str) -> None:
    channel_class = available(name)

    def in_rank(group: ProcessGroup) -> bytes:
        before = harness.open_descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 40, before + 40))
        with pytest.raises(Unavailable) as caught:
            channel_class.inherit(ChannelSpec(harness.ONE_WAY * 40, 8))
        assert name in caught.value.message
        assert caught.value.remedy is not None
        del caught  # its traceback holds a half-made queue
        gc.collect()
        assert harness.open_descriptors() == before
        return b"done"

    assert run_ranks(1, in_rank, timeout_s=10.0) == [b"done"]


def test_a_full_allowance_of_queues_makes_posix_mq_unavailable_and_names_the_limit() -> None:
    channel_class = available("python/posix_mq")

    def in_rank(group: ProcessGroup) -> bytes:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
        reason = channel_class.probe(ChannelSpec(harness.BOTH_WAYS, 1 << 20))
        assert reason is not None
        assert "RLIMIT_MSGQUEUE" in reason.message
        assert "ulimit -q" in (reason.remedy or "")
        return b"done"

    assert run_ranks(1, in_rank, timeout_s=10.0) == [b"done"]


def test_flag_is_refused_where_stores_may_be_reordered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    reason = CHANNELS.get("python/flag").probe()
    assert reason is not None
    assert "aarch64" in reason.message
    assert "python/semaphore" in (reason.remedy or "")


def test_flag_carries_messages_when_it_never_yields() -> None:
    harness.check_delivery(available("python/flag"), 4096, yielding=False)


def test_a_rank_can_leave_a_queue_that_nobody_empties() -> None:
    def body(channel: Channel, group: Group) -> bytes:
        if group.rank == 0:
            for _ in range(4):
                channel.sender(0).send(memoryview(bytes(1 << 20)))
        return b"done"

    answers = harness.run(available("python/mp_queue"), harness.ONE_WAY, 1 << 20, body)
    assert answers == [b"done"] * 2


def test_a_queue_leaves_no_thread_when_it_is_closed() -> None:
    def mine(channel: Channel) -> None:
        before = threading.active_count()
        channel.sender(0).send(memoryview(b"8 bytes."))
        assert threading.active_count() == before + 1
        channel.close()
        assert threading.active_count() == before

    def peers(channel: Channel) -> None:
        assert channel.receiver(0).recv_into(memoryview(bytearray(8))) == 8

    def in_rank(group: ProcessGroup) -> bytes:
        spec = ChannelSpec(harness.ONE_WAY, 8)
        status = harness.with_forked_peer(available("python/mp_queue"), spec, mine, peers)
        assert status == 0
        return b"done"

    assert run_ranks(1, in_rank, timeout_s=10.0) == [b"done"]


@pytest.mark.parametrize("name", ["native/null", "python/null"])
def test_null_takes_every_message_and_delivers_nothing(name: str) -> None:
    channel_class = CHANNELS.get(name)
    assert not channel_class.delivers
    assert channel_class.copies == 0

    def body(channel: Channel, group: Group) -> bytes:
        untouched = bytearray(b"nothing.")
        channel.sender(group.rank).send(memoryview(b"8 bytes."))
        channel.sender(group.rank).post(memoryview(b"8 bytes."))
        channel.sender(group.rank).complete()
        assert channel.receiver(1 - group.rank).recv_into(memoryview(untouched)) == 8
        assert untouched == b"nothing."
        return b"done"

    assert harness.run(channel_class, harness.BOTH_WAYS, 8, body) == [b"done"] * 2
