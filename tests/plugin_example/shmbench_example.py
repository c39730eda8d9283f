"""A channel and a region of another package, as small as they can be."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
from typing import Any, Self

from shmbench.channels import ChannelSpec, Endpoint
from shmbench.channels.pairwise import PairwiseChannel, wires
from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.regions import Region, RegionSpec, Span


class SocketEnd:
    """One end of a packet socket: a packet is a message."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: memoryview) -> None:
        self._end.send(message)

    post = send

    def complete(self) -> None:
        """`send` has copied the message."""

    def recv_into(self, buffer: memoryview) -> int:
        return self._end.recv_into(buffer)

    def close(self) -> None:
        self._end.close()


class Pairs:
    """A socket pair a wire, made before the ranks are forked."""

    def __init__(self, count: int) -> None:
        kind = socket.SOCK_SEQPACKET
        self.sockets = [socket.socketpair(socket.AF_UNIX, kind) for _ in range(count)]

    def close(self) -> None:
        for pair in self.sockets:
            for end in pair:
                end.close()


class ExampleSocketpairChannel(PairwiseChannel):
    """Messages as packets of a Unix socket pair."""

    kind = "example_socketpair"
    driver = "python"
    copies = 2
    needs_fork = True

    def __init__(self, rank: int, spec: ChannelSpec, pairs: Pairs) -> None:
        self.rank = rank
        self.spec = spec
        self._pairs = pairs

    @classmethod
    def inherit(cls, spec: ChannelSpec) -> Pairs:
        return Pairs(len(wires(spec)))

    @classmethod
    def open(
        cls, group: Group, spec: ChannelSpec, region: Span | None, inherited: Any = None
    ) -> Self:
        for wire, (source, target) in zip(wires(spec), inherited.sockets, strict=True):
            if wire.source != group.rank:
                source.close()
            if wire.target != group.rank:
                target.close()
        return cls(group.rank, spec, inherited)

    def wire_sender(self, wire: int) -> Endpoint:
        return SocketEnd(self._pairs.sockets[wire][0])

    def wire_receiver(self, wire: int) -> Endpoint:
        return SocketEnd(self._pairs.sockets[wire][1])

    def close(self) -> None:
        self._pairs.close()


class ExampleMemfdRegion(Region):
    """A memfd that the leader makes and the ranks inherit."""

    kind = "example_memfd"
    needs_fork = True

    def __init__(self, size_bytes: int) -> None:
        descriptor = os.memfd_create("shmbench-example")
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
            self._mapping = mmap.mmap(descriptor, size_bytes)
        finally:
            os.close(descriptor)
        self.memory = memoryview(self._mapping)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))

    @classmethod
    def inherit(cls, spec: RegionSpec) -> Self:
        try:
            return cls(spec.size_bytes)
        except OSError as error:
            raise Unavailable(f"example_memfd: {error}", "free some memory") from error

    @classmethod
    def open(cls, group: Group, spec: RegionSpec, inherited: Self | None = None) -> Self:
        assert inherited is not None
        return inherited

    def close(self) -> None:
        self.memory.release()
        self._mapping.close()
