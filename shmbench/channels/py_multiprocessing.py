"""The standard library's `multiprocessing.Pipe` and `multiprocessing.Queue`."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue

from shmbench.channels.py_wires import (
    ForkedChannel,
    PyEndpoint,
    closed,
    sender_gone,
    too_small,
)

_FLUSH_S = 1.0


class ConnectionSender(PyEndpoint):
    """The writing end of a `multiprocessing.Pipe`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._send_bytes = connection.send_bytes

    def send(self, message: memoryview) -> None:
        self._send_bytes(message)

    post = send

    def close(self) -> None:
        self._connection.close()


class ConnectionReceiver(PyEndpoint):
    """The reading end of a `multiprocessing.Pipe`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._recv_bytes_into = connection.recv_bytes_into

    def recv_into(self, buffer: memoryview) -> int:
        try:
            return self._recv_bytes_into(buffer)
        except EOFError:
            raise sender_gone("mp_pipe") from None
        except multiprocessing.BufferTooShort as error:
            raise too_small(len(buffer), len(error.args[0])) from None

    def close(self) -> None:
        self._connection.close()


class QueueSender(PyEndpoint):
    """Puts messages into a `multiprocessing.Queue`, whose feeder thread writes them to a pipe."""

    def __init__(self, queue: Queue[bytes]) -> None:
        self._queue: Queue[bytes] | None = queue
        self._put: Callable[[bytes], None] = queue.put
        self._used = False

    def send(self, message: memoryview) -> None:
        self._used = True
        self._put(bytes(message))

    post = send

    def close(self) -> None:
        # Queue.close would also stop a receiver of this process, which shares the object; where
        # nothing was put there is no thread to end, and the last reference closes the descriptors.
        if self._queue is not None and self._used:
            _flush_and_close(self._queue)
        self._queue = None
        self._put = closed


def _flush_and_close(queue: Queue[bytes]) -> None:
    """Wait until the feeder thread has written what was put, but not for a receiver that is gone.

    `join_thread` has no time-out, and would hold up the exit of a rank for ever.
    """
    queue.close()
    joining = threading.Thread(target=queue.join_thread, daemon=True)
    joining.start()
    joining.join(_FLUSH_S)
    if joining.is_alive():
        queue.cancel_join_thread()


class QueueReceiver(PyEndpoint):
    """Gets messages from a `multiprocessing.Queue`."""

    def __init__(self, queue: Queue[bytes]) -> None:
        self._get: Callable[[], bytes] = queue.get

    def recv_into(self, buffer: memoryview) -> int:
        message = self._get()
        size = len(message)
        if size > len(buffer):
            raise too_small(len(buffer), size)
        buffer[:size] = message
        return size

    def close(self) -> None:
        self._get = closed


class PyMpPipeChannel(ForkedChannel):
    """`multiprocessing.Pipe`, one way: send_bytes and recv_bytes_into."""

    kind = "mp_pipe"
    # Into the pipe, out of it into bytes, from there into a BytesIO, and into the buffer.
    copies = 4
    # A pipe like `python/pipe`, with a header of 4 bytes for each message.
    inflight_messages = 4096
    inflight_bytes = 28672

    @classmethod
    def make_wire(cls, message_bytes: int) -> tuple[PyEndpoint, PyEndpoint]:
        reader, writer = multiprocessing.Pipe(duplex=False)
        return ConnectionSender(writer), ConnectionReceiver(reader)


class PyMpQueueChannel(ForkedChannel):
    """`multiprocessing.Queue`: pickled bytes, handed to the pipe by a thread.

    It can't tell that a peer died: every process that has the queue holds both ends of its pipe.
    """

    kind = "mp_queue"
    # bytes(message), its pickle, into the pipe, out of it into bytes, from there into a BytesIO,
    # out of the pickle, and into the buffer.
    copies = 7
    # Only memory limits what the feeder thread holds: enough for one message of any size.
    inflight_messages = 64
    inflight_bytes = 1 << 26

    @classmethod
    def make_wire(cls, message_bytes: int) -> tuple[PyEndpoint, PyEndpoint]:
        queue: Queue[bytes] = multiprocessing.get_context("fork").Queue()
        return QueueSender(queue), QueueReceiver(queue)
