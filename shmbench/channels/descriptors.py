"""What the native channels over kernel objects share: a pair of descriptors a wire, inherited.

The leader makes all descriptors before it forks. Each rank keeps its own ends and closes all the
others in `open`, so that the end of a process closes its wires and its peer sees EPIPE. The leader
has to let go as well, by `close()` of what `inherit` gave it, as soon as the ranks are forked.
"""

from __future__ import annotations

import errno
import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from shmbench.channels import ChannelSpec, Link
from shmbench.channels.pairwise import PairwiseChannel, wires
from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.native.descriptors import DescriptorEndpoint
from shmbench.regions import Span

_REMEDIES = {
    errno.EMFILE: "allow more open files with: ulimit -n 4096",
    errno.ENFILE: "allow more open files with: sysctl fs.file-max=1000000",
}
_SMALLEST = ChannelSpec((Link(0, (1,)),), message_bytes=1)


class InheritedDescriptors:
    """A (sending, receiving) pair of descriptors a wire, until somebody takes them."""

    def __init__(self) -> None:
        self._ends: list[list[int]] = []

    def add(self, sending: int, receiving: int) -> None:
        """The descriptors of the next wire; they belong to this object from now on."""
        self._ends.append([sending, receiving])

    def take_sending(self, wire: int) -> int:
        """The sending descriptor of a wire, which belongs to the caller from now on."""
        return self._take(wire, 0)

    def take_receiving(self, wire: int) -> int:
        """The receiving descriptor of a wire, which belongs to the caller from now on."""
        return self._take(wire, 1)

    def _take(self, wire: int, end: int) -> int:
        fd, self._ends[wire][end] = self._ends[wire][end], -1
        return fd

    def close(self) -> None:
        """Close all that nobody took; idempotent."""
        ends, self._ends = self._ends, []
        for fd in (fd for pair in ends for fd in pair if fd >= 0):
            os.close(fd)


class DescriptorChannel(PairwiseChannel):
    """Base of channels whose wires are pairs of descriptors, made before the ranks are forked."""

    driver = "native"
    copies = 2  # from the sender into the kernel, and from there to the receiver
    needs_fork = True
    remedies: ClassVar[Mapping[int, str]] = {}  # by errno, for a wire that the kernel refuses

    def __init__(self, rank: int, spec: ChannelSpec) -> None:
        self.rank = rank
        self.spec = spec
        self._senders: dict[int, DescriptorEndpoint] = {}
        self._receivers: dict[int, DescriptorEndpoint] = {}

    @classmethod
    @abstractmethod
    def connect(cls, spec: ChannelSpec) -> tuple[int, int]:
        """The sending and the receiving descriptor of a new wire. Raises OSError."""

    @classmethod
    @abstractmethod
    def endpoint(cls, fd: int, spec: ChannelSpec) -> DescriptorEndpoint:
        """The native endpoint over one of the descriptors that `connect` gave."""

    @classmethod
    def probe(cls, spec: ChannelSpec | None = None) -> Unavailable | None:
        try:
            cls.inherit(spec or _SMALLEST).close()
        except Unavailable as reason:
            return reason
        return None

    @classmethod
    def inherit(cls, spec: ChannelSpec) -> InheritedDescriptors:
        """All wires' descriptors; `close()` it in the leader once the ranks are forked.

        Raises:
            Unavailable: the kernel refused to make one.
        """
        inherited = InheritedDescriptors()
        try:
            for _ in wires(spec):
                inherited.add(*cls.connect(spec))
        except Unavailable:
            inherited.close()
            raise
        except OSError as error:
            inherited.close()
            remedy = {**_REMEDIES, **cls.remedies}.get(error.errno or 0)
            raise Unavailable(f"{cls.kind}: {error.strerror or error}", remedy) from error
        return inherited

    @classmethod
    def open(
        cls,
        group: Group,
        spec: ChannelSpec,
        region: Span | None,
        inherited: Any = None,
    ) -> Self:
        channel = cls(group.rank, spec)
        for index, wire in enumerate(wires(spec)):
            if wire.source == group.rank:
                fd = inherited.take_sending(index)
                channel._senders[index] = cls.endpoint(fd, spec)
            if wire.target == group.rank:
                fd = inherited.take_receiving(index)
                channel._receivers[index] = cls.endpoint(fd, spec)
        inherited.close()
        return channel

    def wire_sender(self, wire: int) -> DescriptorEndpoint:
        return self._senders[wire]

    def wire_receiver(self, wire: int) -> DescriptorEndpoint:
        return self._receivers[wire]

    def close(self) -> None:
        for endpoint in (*self._senders.values(), *self._receivers.values()):
            endpoint.close()
