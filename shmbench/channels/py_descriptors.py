"""Streams of bytes between two processes, used from Python: `os.pipe` and `socket.socketpair`."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable

from shmbench.channels.py_wires import ForkedChannel, PyEndpoint, fitted, sender_gone


class StreamReceiver(PyEndpoint):
    """Takes messages of a fixed size from a stream of bytes.

    Args:
        stream: what to close.
        read_into: the stream's method that waits for at least one byte and gives how many came.
        kind: for the error.
        message_bytes: the size of each message.
    """

    def __init__(
        self,
        stream: io.FileIO | socket.socket,
        read_into: Callable[[memoryview], int],
        kind: str,
        message_bytes: int,
    ) -> None:
        self._stream = stream
        self._read_into = read_into
        self._kind = kind
        self._message_bytes = message_bytes

    def recv_into(self, buffer: memoryview) -> int:
        size = self._message_bytes
        if len(buffer) != size:
            buffer = fitted(buffer, size)
        missing = size
        while (count := self._read_into(buffer)) != missing:
            if count == 0:
                raise sender_gone(self._kind)
            buffer = buffer[count:]
            missing -= count
        return size

    def close(self) -> None:
        self._stream.close()


class PipeSender(PyEndpoint):
    """Writes messages into a pipe.

    A `FileIO` is the thinnest object that owns a descriptor: its methods bind once, and a round
    trip takes 15 % less than with os.write and os.readv, which build a tuple for each message.
    """

    def __init__(self, pipe: io.FileIO) -> None:
        self._pipe = pipe
        self._write = pipe.write

    def send(self, message: memoryview) -> None:
        while (count := self._write(message)) != len(message):
            message = message[count:]

    post = send

    def close(self) -> None:
        self._pipe.close()


class SocketSender(PyEndpoint):
    """Sends messages over a stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sendall = connection.sendall

    def send(self, message: memoryview) -> None:
        self._sendall(message)

    post = send

    def close(self) -> None:
        self._connection.close()


class PyPipeChannel(ForkedChannel):
    """`os.pipe`, unbuffered."""

    kind = "pipe"
    copies = 2
    # A pipe has 16 pages, and a message that doesn't fit behind the last one starts a new page:
    # at worst each page is half full. See pipe(7) and the kernel's pipe_write.
    inflight_messages = 32768
    inflight_bytes = 32768

    @classmethod
    def make_wire(cls, message_bytes: int) -> tuple[PyEndpoint, PyEndpoint]:
        read_end, write_end = os.pipe()
        reader = io.FileIO(read_end, "r")
        return (
            PipeSender(io.FileIO(write_end, "w")),
            StreamReceiver(reader, reader.readinto, cls.kind, message_bytes),
        )


class PySocketChannel(ForkedChannel):
    """`socket.socketpair`: a connected pair of Unix stream sockets."""

    kind = "socket"
    copies = 2
    # The send buffer (net.core.wmem_default, 212992 bytes) is charged 768 bytes even for a message
    # of one byte. See unix(7) and the kernel's SKB_TRUESIZE.
    inflight_messages = 128
    inflight_bytes = 65536

    @classmethod
    def make_wire(cls, message_bytes: int) -> tuple[PyEndpoint, PyEndpoint]:
        source, target = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return (
            SocketSender(source),
            StreamReceiver(target, target.recv_into, cls.kind, message_bytes),
        )
