"""For transports that connect two ranks: a link with several targets becomes several wires.

A kind derives from `PairwiseChannel`, makes one wire a (source, target) pair, and never sees links;
a message for several targets is posted to each wire in turn, then completed on each.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from shmbench.channels import Channel, ChannelSpec, Endpoint


class Wire(NamedTuple):
    """A pair of ranks with one sender and one receiver, and the link that it belongs to."""

    source: int
    target: int
    link: int


def wires(spec: ChannelSpec) -> list[Wire]:
    """All wires of a spec, links in their order, targets in theirs."""
    return [
        Wire(link.source, target, index)
        for index, link in enumerate(spec.links)
        for target in link.targets
    ]


class Tee:
    """A Python endpoint that sends each message to several others."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        self._endpoints = endpoints

    def post(self, message: memoryview) -> None:
        for endpoint in self._endpoints:
            endpoint.post(message)

    def complete(self) -> None:
        for endpoint in self._endpoints:
            endpoint.complete()

    def send(self, message: memoryview) -> None:
        self.post(message)
        self.complete()

    def recv_into(self, buffer: memoryview) -> int:
        raise TypeError("a link is received from by its targets only")

    def close(self) -> None:
        for endpoint in self._endpoints:
            endpoint.close()


class PairwiseChannel(Channel):
    """Base of channels whose transport has exactly two ends."""

    rank: int
    spec: ChannelSpec

    # `sender` and `receiver` are made of these two.
    @abstractmethod
    def wire_sender(self, wire: int) -> Endpoint:
        """The sending end of wires(spec)[wire]."""

    @abstractmethod
    def wire_receiver(self, wire: int) -> Endpoint:
        """The receiving end of wires(spec)[wire]."""

    def sender(self, link: int) -> Endpoint:
        ends = [
            self.wire_sender(index)
            for index, wire in enumerate(wires(self.spec))
            if wire.link == link
        ]
        if len(ends) == 1:
            return ends[0]
        if self.driver == "native":
            from shmbench.native.endpoint import NativeTee

            return NativeTee(ends)
        return Tee(ends)

    def receiver(self, link: int) -> Endpoint:
        for index, wire in enumerate(wires(self.spec)):
            if wire.link == link and wire.target == self.rank:
                return self.wire_receiver(index)
        raise ValueError(f"rank {self.rank} is no target of link {link}")
