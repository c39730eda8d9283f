"""The native channels over kernel objects: the contract for each, and what is special to one."""

from __future__ import annotations

import ctypes
import errno
import resource
import signal
from collections.abc import Callable

import pytest
from channel_harness import (
    BOTH_WAYS,
    DELIVERY_SIZES,
    ONE_WAY,
    check_both_directions,
    check_dead_peer,
    check_delivery,
    check_fan_in,
    check_fan_out,
    check_nothing_left,
    check_too_small_buffer,
    expect,
    inflight_sizes,
    open_descriptors,
    payload,
    run,
    with_forked_peer,
)
from needs import need

from shmbench.channels import CHANNELS, Channel, ChannelSpec, Link
from shmbench.channels.descriptors import DescriptorChannel
from shmbench.channels.pipe import PipeChannel
from shmbench.channels.posix_mq import PosixMqChannel
from shmbench.channels.sockets import TcpChannel
from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.group.process import run_ranks

KINDS = ("pipe", "unix_stream", "unix_seqpacket", "tcp", "posix_mq", "cma")
WITH_ENDS = ("pipe", "unix_stream", "unix_seqpacket", "tcp")
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def channel_class(kind: str) -> type[Channel]:
    """The class of a native kind, where this machine can carry it."""
    found = CHANNELS.get(f"native/{kind}")
    reason = found.probe()
    if reason is not None:
        need(False, reason.message, reason.remedy or "")
    return found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[Channel]:
    return channel_class(request.param)


@pytest.mark.parametrize("message_bytes", DELIVERY_SIZES)
def test_messages_arrive_whole_and_in_order(kind: type[Channel], message_bytes: int) -> None:
    check_delivery(kind, message_bytes)


def test_a_message_of_64_mib_arrives_whole(kind: type[Channel]) -> None:
    check_delivery(kind, 64 << 20, count=1)


def test_messages_arrive_where_waiting_never_gives_the_cpu_away() -> None:
    check_delivery(channel_class("cma"), 8, yielding=False)


def test_a_link_with_three_targets_reaches_all(kind: type[Channel]) -> None:
    check_fan_out(kind)


def test_three_links_to_one_rank_stay_apart(kind: type[Channel]) -> None:
    check_fan_in(kind)


def test_both_ranks_may_post_what_may_be_in_flight_before_either_receives(
    kind: type[Channel],
) -> None:
    for message_bytes in inflight_sizes(kind):
        check_both_directions(kind, message_bytes)


def test_a_buffer_that_is_too_small_is_emsgsize(kind: type[Channel]) -> None:
    check_too_small_buffer(kind)


def test_nothing_is_left_after_opening_and_closing_200_times(kind: type[Channel]) -> None:
    check_nothing_left(kind)


@pytest.mark.parametrize("kind_name", WITH_ENDS)
def test_a_rank_whose_peer_died_gets_an_error(kind_name: str) -> None:
    check_dead_peer(channel_class(kind_name))


def test_fetching_the_message_of_a_dead_sender_says_that_there_is_no_such_process() -> None:
    def mine(channel: Channel) -> None:
        with pytest.raises(ProcessLookupError, match="ESRCH"):
            channel.receiver(1).recv_into(memoryview(bytearray(8)))

    def peers(channel: Channel) -> None:
        channel.sender(1).post(memoryview(bytes(8)))

    def in_rank(group: Group) -> bytes:
        # The dead sender must be reaped: a zombie still has a process id.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with pytest.raises(ChildProcessError):
            with_forked_peer(cma, ChannelSpec(BOTH_WAYS, 8), mine, peers)
        return b"done"

    cma = channel_class("cma")
    assert run_ranks(1, in_rank, timeout_s=10.0) == [b"done"]


def test_a_message_that_did_not_fit_is_still_there_for_a_larger_buffer(
    kind: type[Channel],
) -> None:
    def body(channel: Channel, group: Group) -> bytes:
        if group.rank == 0:
            channel.sender(0).send(memoryview(payload(0, 0, 100)))
        else:
            with pytest.raises(OSError, match="EMSGSIZE"):
                channel.receiver(0).recv_into(memoryview(bytearray(99)))
            expect(channel, 0, 0, bytearray(100), 100)
        return b"done"

    assert run(kind, ONE_WAY, 100, body) == [b"done"] * 2


@pytest.mark.parametrize("kind_name", [name for name in KINDS if name != "cma"])
def test_a_message_of_another_size_than_the_channel_carries_is_refused(kind_name: str) -> None:
    def body(channel: Channel, group: Group) -> bytes:
        if group.rank == 0:
            with pytest.raises(OSError, match="EMSGSIZE"):
                channel.sender(0).send(memoryview(bytes(9)))
        return b"done"

    assert run(channel_class(kind_name), ONE_WAY, 8, body) == [b"done"] * 2


def test_signals_do_not_interrupt_a_transfer(kind: type[Channel]) -> None:
    size = 4 << 20

    def body(channel: Channel, group: Group) -> bytes:
        caught: list[int] = []
        signal.signal(signal.SIGALRM, lambda number, frame: caught.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            for sequence in range(3):
                if group.rank == 0:
                    channel.sender(0).send(memoryview(payload(0, sequence, size)))
                else:
                    expect(channel, 0, sequence, bytearray(size), size)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return b"caught" if caught else b"none"

    assert run(kind, ONE_WAY, size, body) == [b"caught"] * 2


def test_an_endpoint_that_was_closed_is_an_error_and_not_somebody_elses_file() -> None:
    def body(channel: Channel, group: Group) -> bytes:
        if group.rank == 0:
            end = channel.sender(0)
            end.close()
            end.close()
            with pytest.raises(OSError, match="EBADF"):
                end.send(memoryview(bytes(8)))
        return b"done"

    assert run(PipeChannel, ONE_WAY, 8, body) == [b"done"] * 2


def in_a_rank_of_its_own(body: Callable[[], None]) -> None:
    """Run `body` where its changes of limits and namespaces end with the process."""

    def in_rank(group: Group) -> bytes:
        body()
        return b"done"

    assert run_ranks(1, in_rank, timeout_s=10.0) == [b"done"]


@pytest.mark.parametrize("kind_name", [name for name in KINDS if name != "cma"])
def test_too_few_descriptors_are_unavailable_and_none_is_kept(kind_name: str) -> None:
    kind = channel_class(kind_name)

    def body() -> None:
        before = open_descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 6, before + 6))
        spec = ChannelSpec((Link(0, tuple(range(1, 9))),), 8)
        with pytest.raises(Unavailable, match=f"{kind_name}: .*ulimit -n"):
            kind.inherit(spec)
        assert open_descriptors() == before

    in_a_rank_of_its_own(body)


def test_queues_beyond_the_users_limit_are_unavailable_with_the_limit_to_raise() -> None:
    channel_class("posix_mq")
    spec = ChannelSpec((Link(0, (1, 2, 3)),), 8192)

    def body() -> None:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (100_000, 100_000))
        reason = PosixMqChannel.probe(spec)
        assert reason is not None
        assert "RLIMIT_MSGQUEUE allows 100000 B" in reason.message
        assert "ulimit -q" in (reason.remedy or "")
        with pytest.raises(Unavailable, match="RLIMIT_MSGQUEUE"):
            PosixMqChannel.inherit(spec)

    in_a_rank_of_its_own(body)


def test_tcp_without_a_loopback_interface_is_unavailable_with_the_remedy() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def in_rank(group: Group) -> bytes:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return errno.errorcode[ctypes.get_errno()].encode()
        reason = TcpChannel.probe()
        assert reason is not None
        assert "ip link set lo up" in (reason.remedy or "")
        return b"done"

    (answer,) = run_ranks(1, in_rank, timeout_s=10.0)
    need(answer == b"done", f"no user namespaces: {answer.decode()}", "run as root")


def test_what_was_inherited_can_be_closed_twice_and_holds_nothing_then() -> None:
    for name in WITH_ENDS:
        kind = channel_class(name)
        assert issubclass(kind, DescriptorChannel)
        before = open_descriptors()
        inherited = kind.inherit(ChannelSpec(BOTH_WAYS, 8))
        assert open_descriptors() == before + 4
        inherited.close()
        inherited.close()
        assert open_descriptors() == before


def test_a_queue_has_no_name_any_more_when_ranks_start() -> None:
    channel_class("posix_mq")

    def body() -> None:
        # Room for two queues: had a name stayed, closing would not give its queue's bytes back.
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (200_000, 200_000))
        for _ in range(10):
            PosixMqChannel.inherit(ChannelSpec(ONE_WAY, 8192)).close()

    in_a_rank_of_its_own(body)
