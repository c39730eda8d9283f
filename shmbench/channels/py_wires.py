"""What the python channels share: endpoints, and wires whose ends are made before the fork."""

from __future__ import annotations

import errno
import os
import secrets
from abc import abstractmethod
from typing import Any, ClassVar, NoReturn, Self

from shmbench.channels import Channel, ChannelSpec, Driver, Endpoint, Link
from shmbench.channels.pairwise import PairwiseChannel, wires
from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.regions import Span

_SMALLEST = ChannelSpec(links=(Link(0, (1,)),), message_bytes=1)


def unique_name() -> str:
    """A new name for a semaphore or a queue, as `shmbench clean` recognises it."""
    return f"/shmbench-{os.getuid()}-{os.getpid()}-{secrets.token_hex(8)}"


def closed(*_: object) -> NoReturn:
    """Stands for the bound methods that an endpoint had before it was closed.

    Raises:
        OSError: EBADF, always.
    """
    raise OSError(errno.EBADF, "this endpoint is closed (EBADF)")


def sender_gone(kind: str) -> ConnectionResetError:
    """The error for the end of a stream: it always means that the sender closed or died."""
    return ConnectionResetError(errno.ECONNRESET, f"{kind}: the sender is gone (ECONNRESET)")


def too_small(buffer_bytes: int, message_bytes: int) -> OSError:
    """The error for a buffer that is too small for a message."""
    return OSError(
        errno.EMSGSIZE,
        f"receive: a buffer of {buffer_bytes} bytes for a message of {message_bytes} (EMSGSIZE)",
    )


def fitted(buffer: memoryview, message_bytes: int) -> memoryview:
    """The front of `buffer` that takes exactly one message.

    Raises:
        OSError: EMSGSIZE, the buffer is too small.
    """
    if len(buffer) < message_bytes:
        raise too_small(len(buffer), message_bytes)
    return buffer[:message_bytes]


def refusal(channel: type[Channel], spec: ChannelSpec | None) -> Unavailable | None:
    """Why `inherit` fails, found out by trying it; None when it works."""
    try:
        channel.inherit(spec or _SMALLEST).close()
    except Unavailable as reason:
        return reason
    return None


class PyEndpoint:
    """Base of the python endpoints: an end that sends overrides `send`, the other `recv_into`.

    Every python transport has copied the message when `send` returns, so an end that sends says
    `post = send` (a method that calls `send` would cost a call a message).
    """

    def send(self, message: memoryview) -> None:
        raise TypeError("this is a receiving end")

    post = send

    def complete(self) -> None:
        """Nothing is left to wait for."""

    def recv_into(self, buffer: memoryview) -> int:
        raise TypeError("this is a sending end")

    def close(self) -> None:
        """Release what this end owns; idempotent."""


class ForkedWires:
    """Both ends of every wire, made by the leader; each rank keeps its own."""

    def __init__(self) -> None:
        self.ends: list[tuple[PyEndpoint, PyEndpoint]] = []

    def keep(self, rank: int, spec: ChannelSpec) -> None:
        """Close what isn't this rank's, so that the death of a peer closes the last of its ends."""
        for wire, (sender, receiver) in zip(wires(spec), self.ends, strict=True):
            if wire.source != rank:
                sender.close()
            if wire.target != rank:
                receiver.close()

    def close(self) -> None:
        """Close every end that is still open in this process; idempotent."""
        for pair in self.ends:
            for end in pair:
                end.close()


class ForkedChannel(PairwiseChannel):
    """Base of the python channels that pass by inheritance: a kind says how one wire is made."""

    driver: ClassVar[Driver] = "python"
    needs_fork: ClassVar[bool] = True
    remedy: ClassVar[str] = "allow more open files with: ulimit -n 4096"

    def __init__(self, rank: int, spec: ChannelSpec, inherited: ForkedWires) -> None:
        self.rank = rank
        self.spec = spec
        self._wires = inherited

    @classmethod
    @abstractmethod
    def make_wire(cls, message_bytes: int) -> tuple[PyEndpoint, PyEndpoint]:
        """The sending and the receiving end of a new wire. Raises OSError."""

    @classmethod
    def probe(cls, spec: ChannelSpec | None = None) -> Unavailable | None:
        return refusal(cls, spec)

    @classmethod
    def inherit(cls, spec: ChannelSpec) -> ForkedWires:
        made = ForkedWires()
        try:
            for _ in wires(spec):
                made.ends.append(cls.make_wire(spec.message_bytes))
        except OSError as error:
            made.close()
            which = f"wire {len(made.ends) + 1} of {len(wires(spec))}"
            message = f"python/{cls.kind}: can't make {which}: {error}"
            raise Unavailable(message, cls.remedy) from error
        return made

    @classmethod
    def open(
        cls, group: Group, spec: ChannelSpec, region: Span | None, inherited: Any = None
    ) -> Self:
        inherited.keep(group.rank, spec)
        return cls(group.rank, spec, inherited)

    def wire_sender(self, wire: int) -> Endpoint:
        return self._wires.ends[wire][0]

    def wire_receiver(self, wire: int) -> Endpoint:
        return self._wires.ends[wire][1]

    def close(self) -> None:
        self._wires.close()
