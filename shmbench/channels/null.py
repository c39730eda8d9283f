"""Channels that move nothing: what each driver costs by itself."""

from __future__ import annotations

import sys
from typing import Any, ClassVar, Self

from shmbench.channels import ChannelSpec, Driver, Endpoint
from shmbench.channels.pairwise import PairwiseChannel
from shmbench.channels.py_wires import PyEndpoint
from shmbench.group import Group
from shmbench.native.endpoint import NullEndpoint
from shmbench.regions import Span


class PyNullEndpoint(PyEndpoint):
    """Takes every message and delivers nothing."""

    def send(self, message: memoryview) -> None:
        pass

    post = send

    def recv_into(self, buffer: memoryview) -> int:
        return len(buffer)


class _NullChannel(PairwiseChannel):
    """Gives the same kind of endpoint to everybody."""

    kind: ClassVar[str] = "null"
    copies: ClassVar[int] = 0
    delivers: ClassVar[bool] = False
    inflight_messages: ClassVar[int] = sys.maxsize
    inflight_bytes: ClassVar[int] = sys.maxsize
    endpoint: ClassVar[type[Endpoint]]

    @classmethod
    def open(
        cls, group: Group, spec: ChannelSpec, region: Span | None, inherited: Any = None
    ) -> Self:
        channel = cls()
        channel.rank = group.rank
        channel.spec = spec
        return channel

    def wire_sender(self, wire: int) -> Endpoint:
        return self.endpoint()

    def wire_receiver(self, wire: int) -> Endpoint:
        return self.endpoint()

    def close(self) -> None:
        """There is nothing to release."""


class NativeNullChannel(_NullChannel):
    """The price of a native loop."""

    driver: ClassVar[Driver] = "native"
    endpoint = NullEndpoint


class PyNullChannel(_NullChannel):
    """The price of a Python loop and of two method calls."""

    driver: ClassVar[Driver] = "python"
    endpoint = PyNullEndpoint
