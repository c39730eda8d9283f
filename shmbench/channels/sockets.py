"""A pair of connected sockets a wire: unix(7) streams and packets, and tcp(7) over loopback.

Buffers keep the sizes that the kernel gives them, which is what a program gets that asks for none.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from typing import ClassVar

from shmbench.channels import ChannelSpec
from shmbench.channels.descriptors import DescriptorChannel
from shmbench.native.descriptors import SocketEndpoint

# The kernel accounts for a packet with its administration, so that 64 packets of one byte take
# 48 KiB of a socket's buffer, which is 208 KiB by default.
_INFLIGHT_MESSAGES = 64
_INFLIGHT_BYTES = 32768


class UnixStreamChannel(DescriptorChannel):
    """Messages as a byte stream through a Unix-domain socket pair."""

    kind = "unix_stream"
    inflight_messages = _INFLIGHT_MESSAGES
    inflight_bytes = _INFLIGHT_BYTES

    @classmethod
    def connect(cls, spec: ChannelSpec) -> tuple[int, int]:
        sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return sending.detach(), receiving.detach()

    @classmethod
    def endpoint(cls, fd: int, spec: ChannelSpec) -> SocketEndpoint:
        return SocketEndpoint(fd, spec.message_bytes, spec.message_bytes)


class UnixSeqpacketChannel(DescriptorChannel):
    """Messages as packets through a Unix-domain socket pair; large ones as several packets."""

    kind = "unix_seqpacket"
    inflight_messages = _INFLIGHT_MESSAGES
    inflight_bytes = _INFLIGHT_BYTES

    # A packet has to fit the send buffer as a whole, and the next one should find room beside it.
    packet_bytes_max = 65536

    @classmethod
    def connect(cls, spec: ChannelSpec) -> tuple[int, int]:
        sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return sending.detach(), receiving.detach()

    @classmethod
    def endpoint(cls, fd: int, spec: ChannelSpec) -> SocketEndpoint:
        return SocketEndpoint(fd, spec.message_bytes, cls.packet_bytes_max)


class TcpChannel(DescriptorChannel):
    """Messages as a byte stream through TCP over 127.0.0.1, each sent at once (TCP_NODELAY)."""

    kind = "tcp"
    inflight_messages = _INFLIGHT_MESSAGES
    inflight_bytes = _INFLIGHT_BYTES
    remedies: ClassVar[Mapping[int, str]] = {
        errno.ENETUNREACH: "bring up the loopback interface: ip link set lo up"
    }

    @classmethod
    def connect(cls, spec: ChannelSpec) -> tuple[int, int]:
        with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
            sending = socket.create_connection(listener.getsockname(), timeout=10.0)
            try:
                receiving = _accept(listener, sending)
            except BaseException:
                sending.close()
                raise
        for end in (sending, receiving):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setblocking(True)
        return sending.detach(), receiving.detach()

    @classmethod
    def endpoint(cls, fd: int, spec: ChannelSpec) -> SocketEndpoint:
        return SocketEndpoint(fd, spec.message_bytes, spec.message_bytes)


def _accept(listener: socket.socket, expected: socket.socket) -> socket.socket:
    """The other end of `expected`; whoever else connects to the port is turned away."""
    while True:
        accepted, peer = listener.accept()
        if peer == expected.getsockname():
            return accepted
        accepted.close()
