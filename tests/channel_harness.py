"""The contract of channels as checks that take a channel class; the ranks are really forked."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from shmbench.channels import Channel, ChannelSpec, Link
from shmbench.group import Group
from shmbench.group.process import ProcessGroup, run_ranks
from shmbench.native.process import set_parent_death_signal
from shmbench.regions import Region, RegionSpec

ONE_WAY = (Link(0, (1,)),)
BOTH_WAYS = (Link(0, (1,)), Link(1, (0,)))
DELIVERY_SIZES = (1, 8, 4096, 65536 + 13, (1 << 20) + 1)

Body = Callable[[Channel, Group], bytes]


class SharedMemory(Region):
    """An anonymous mapping that forked ranks inherit."""

    kind = "anonymous"
    needs_fork = True

    def __init__(self, size_bytes: int) -> None:
        self._mapping = mmap.mmap(-1, max(1, size_bytes))
        self.memory = memoryview(self._mapping)[:size_bytes]
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))

    @classmethod
    def open(cls, group: Group, spec: RegionSpec, inherited: Self | None = None) -> Self:
        assert inherited is not None
        return inherited

    def close(self) -> None:
        self.memory.release()
        self._mapping.close()


def region_for(channel_class: type[Channel], spec: ChannelSpec) -> SharedMemory | None:
    """The region that a channel asks for; None where it uses none."""
    return SharedMemory(channel_class.region_bytes(spec)) if channel_class.uses_region else None


def release(inherited: Any, region: Region | None) -> None:
    """What the leader still holds once the ranks are forked."""
    if inherited is not None:
        inherited.close()
    if region is not None:
        region.close()


def run(
    channel_class: type[Channel],
    links: tuple[Link, ...],
    message_bytes: int,
    body: Body,
    *,
    ranks: int = 2,
    yielding: bool = True,
    timeout_s: float = 20.0,
) -> list[bytes]:
    """Open the channel in fresh ranks, run `body` in each, close it twice, and give the answers."""
    spec = ChannelSpec(links, message_bytes, yielding)
    region = region_for(channel_class, spec)
    inherited = channel_class.inherit(spec)

    def in_rank(group: ProcessGroup) -> bytes:
        channel = channel_class.open(group, spec, region, inherited)
        try:
            return body(channel, group)
        finally:
            channel.close()
            channel.close()

    try:
        return run_ranks(ranks, in_rank, timeout_s=timeout_s)
    finally:
        release(inherited, region)


def payload(link: int, sequence: int, message_bytes: int) -> bytes:
    """The bytes of message number `sequence` of a link; no two messages are alike."""
    return random.Random(link << 32 | sequence).randbytes(message_bytes)


def expect(channel: Channel, link: int, sequence: int, buffer: bytearray, size: int) -> None:
    """Receive one message and compare each of its bytes; `buffer` may be larger than it."""
    received = channel.receiver(link).recv_into(memoryview(buffer))
    assert received == size, f"message {sequence}: {received} bytes instead of {size}"
    whole = buffer[:size] == payload(link, sequence, size)
    assert whole, f"message {sequence} of link {link} is damaged or out of order"


def check_delivery(
    channel_class: type[Channel], message_bytes: int, *, count: int = 20, yielding: bool = True
) -> None:
    """Messages arrive whole and in order, in a buffer of their size and in a larger one."""

    def body(channel: Channel, group: Group) -> bytes:
        if group.rank == 0:
            for sequence in range(count):
                channel.sender(0).send(memoryview(payload(0, sequence, message_bytes)))
        else:
            for sequence in range(count):
                spare = sequence % 3
                expect(channel, 0, sequence, bytearray(message_bytes + spare), message_bytes)
        return b"done"

    answers = run(channel_class, ONE_WAY, message_bytes, body, yielding=yielding)
    assert answers == [b"done"] * 2


def check_fan_out(channel_class: type[Channel], message_bytes: int = 5000) -> None:
    """One link with three targets: each message reaches all of them, in order."""

    def body(channel: Channel, group: Group) -> bytes:
        buffer = bytearray(message_bytes)
        for sequence in range(20):
            if group.rank == 0:
                channel.sender(0).send(memoryview(payload(0, sequence, message_bytes)))
            else:
                expect(channel, 0, sequence, buffer, message_bytes)
        return b"done"

    links = (Link(0, (1, 2, 3)),)
    assert run(channel_class, links, message_bytes, body, ranks=4) == [b"done"] * 4


def check_fan_in(channel_class: type[Channel], message_bytes: int = 5000) -> None:
    """Three links to one rank: the messages of each are told apart, and in order."""

    def body(channel: Channel, group: Group) -> bytes:
        buffer = bytearray(message_bytes)
        for sequence in range(20):
            if group.rank:
                link = group.rank - 1
                channel.sender(link).send(memoryview(payload(link, sequence, message_bytes)))
            else:
                for link in range(3):
                    expect(channel, link, sequence, buffer, message_bytes)
        return b"done"

    links = (Link(1, (0,)), Link(2, (0,)), Link(3, (0,)))
    assert run(channel_class, links, message_bytes, body, ranks=4) == [b"done"] * 4


def inflight_sizes(channel_class: type[Channel]) -> list[int]:
    """Message sizes at which the in-flight figures are tightest, up to 1 MiB."""
    bytes_max = min(channel_class.inflight_bytes, 1 << 20)
    share = max(1, bytes_max // channel_class.inflight_messages)
    return sorted({1, share, min(4097, bytes_max), min(8193, bytes_max), bytes_max})


def check_both_directions(channel_class: type[Channel], message_bytes: int) -> None:
    """Both ranks post all that may be in flight before either receives: nobody waits for ever."""
    count = min(channel_class.inflight_messages, channel_class.inflight_bytes // message_bytes)

    def body(channel: Channel, group: Group) -> bytes:
        mine, theirs = channel.sender(group.rank), 1 - group.rank
        for start in (0, count):
            messages = [
                payload(group.rank, start + sequence, message_bytes) for sequence in range(count)
            ]
            for message in messages:
                mine.post(memoryview(message))
            group.barrier()  # everything is posted, nothing is received
            for sequence in range(count):
                expect(channel, theirs, start + sequence, bytearray(message_bytes), message_bytes)
            mine.complete()
            group.barrier()
        return b"done"

    assert run(channel_class, BOTH_WAYS, message_bytes, body) == [b"done"] * 2


def check_too_small_buffer(channel_class: type[Channel], message_bytes: int = 64) -> None:
    """A message that does not fit the buffer is EMSGSIZE, and writes nothing behind its end."""

    def body(channel: Channel, group: Group) -> bytes:
        if group.rank == 0:
            message = payload(0, 0, message_bytes)
            channel.sender(0).post(memoryview(message))
            group.barrier()
            return b"done"
        buffer = bytearray(message_bytes)
        number = 0
        try:
            channel.receiver(0).recv_into(memoryview(buffer)[: message_bytes - 1])
        except OSError as error:
            number = error.errno or 0
        group.barrier()
        assert number == errno.EMSGSIZE, f"errno {number} instead of EMSGSIZE"
        assert buffer[-1] == 0, "a byte behind the end of the buffer was written"
        return b"done"

    assert run(channel_class, ONE_WAY, message_bytes, body) == [b"done"] * 2


def with_forked_peer(
    channel_class: type[Channel],
    spec: ChannelSpec,
    mine: Callable[[Channel], None],
    peers: Callable[[Channel], None],
) -> int:
    """Be rank 0 and fork rank 1, which ends right after `peers`; gives its exit status.

    For what `run` can't show: with it, the leader would still hold the ends of a dead rank.
    """
    group_memory = mmap.mmap(-1, 1 << 20)
    region = region_for(channel_class, spec)
    inherited = channel_class.inherit(spec)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            set_parent_death_signal(signal.SIGKILL)
            peers(channel_class.open(ProcessGroup(1, 2, group_memory), spec, region, inherited))
            status = 0
        finally:
            os._exit(status)
    channel = channel_class.open(ProcessGroup(0, 2, group_memory), spec, region, inherited)
    try:
        mine(channel)
    finally:
        channel.close()
        release(inherited, region)
        _, ended = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(ended)


def check_dead_peer(channel_class: type[Channel]) -> None:
    """Who waits for a peer that died gets an error instead of waiting for ever, either way."""

    def mine(channel: Channel) -> None:
        with pytest.raises((OSError, EOFError)):
            channel.receiver(1).recv_into(memoryview(bytearray(4096)))

        def send_for_ever() -> None:
            while True:
                channel.sender(0).send(memoryview(bytes(4096)))

        with pytest.raises((OSError, EOFError)):
            send_for_ever()

    def in_rank(group: ProcessGroup) -> bytes:
        spec = ChannelSpec(BOTH_WAYS, 4096)
        with_forked_peer(channel_class, spec, mine, lambda channel: None)
        return b"done"

    assert run_ranks(1, in_rank, timeout_s=10.0) == [b"done"]


def open_descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def names_in_system() -> set[str]:
    """The names of shmbench's objects in /dev/shm and, where it is mounted, /dev/mqueue."""
    return {
        str(path)
        for directory in (Path("/dev/shm"), Path("/dev/mqueue"))
        if directory.is_dir()
        for path in directory.iterdir()
        if path.name.removeprefix("sem.").startswith(f"shmbench-{os.getuid()}-{os.getpid()}-")
    }


def check_nothing_left(channel_class: type[Channel], rounds: int = 200) -> None:
    """Opened and closed again and again, neither rank has more descriptors; no name remains."""

    def in_rank(group: ProcessGroup) -> bytes:
        spec = ChannelSpec(BOTH_WAYS, 4096)

        def use_and_close(channel: Channel) -> None:
            channel.sender(0)
            channel.receiver(1)
            channel.close()

        def peers(channel: Channel) -> None:
            channel.sender(1)
            channel.receiver(0)
            channel.close()
            assert open_descriptors() == before

        before = open_descriptors()
        for _ in range(rounds):
            assert with_forked_peer(channel_class, spec, use_and_close, peers) == 0
            assert open_descriptors() == before
        assert names_in_system() == set()
        return b"done"

    assert run_ranks(1, in_rank, timeout_s=30.0) == [b"done"]
