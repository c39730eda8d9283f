"""POSIX message queues through posix_ipc; see mq_overview(7)."""

from __future__ import annotations

import errno

import posix_ipc

from shmbench.channels.py_wires import ForkedChannel, PyEndpoint, closed, fitted, unique_name

# The kernel's default limits (fs.mqueue.msg_max, fs.mqueue.msgsize_max), so that a queue is alike
# on every machine; a larger message crosses in fragments.
_MESSAGES = 10
_FRAGMENT_BYTES = 8192


class QueueEnd(PyEndpoint):
    """What both ends share: the queue, and where a message is cut into fragments."""

    def __init__(self, queue: posix_ipc.MessageQueue, message_bytes: int) -> None:
        self._queue: posix_ipc.MessageQueue | None = queue
        self._message_bytes = message_bytes
        self._cuts = [
            slice(start, start + _FRAGMENT_BYTES)
            for start in range(0, message_bytes, _FRAGMENT_BYTES)
        ]

    def close(self) -> None:
        if self._queue is not None:
            self._queue.close()
            self._queue = None


class MqSender(QueueEnd):
    """Sends each message as one fragment or several."""

    def __init__(self, queue: posix_ipc.MessageQueue, message_bytes: int) -> None:
        super().__init__(queue, message_bytes)
        self._send = queue.send

    def send(self, message: memoryview) -> None:
        for cut in self._cuts:
            self._send(message[cut])

    post = send

    def close(self) -> None:
        super().close()
        self._send = closed


class MqReceiver(QueueEnd):
    """Joins the fragments of each message."""

    def __init__(self, queue: posix_ipc.MessageQueue, message_bytes: int) -> None:
        super().__init__(queue, message_bytes)
        self._receive = queue.receive

    def recv_into(self, buffer: memoryview) -> int:
        size = self._message_bytes
        if len(buffer) != size:
            buffer = fitted(buffer, size)
        for cut in self._cuts:
            buffer[cut], _ = self._receive()
        return size

    def close(self) -> None:
        super().close()
        self._receive = closed


class PyPosixMqChannel(ForkedChannel):
    """`posix_ipc.MessageQueue`. It can't tell that a peer died."""

    kind = "posix_mq"
    # Into the kernel, out of it into posix_ipc's own buffer, from there into bytes, and into the
    # buffer of the receiver.
    copies = 4
    remedy = (
        "a wire needs fs.mqueue.msg_max >= 10 and msgsize_max >= 8192 (sysctl), and up to 84 kB "
        "beside this user's other queues: ulimit -q unlimited"
    )
    inflight_messages = _MESSAGES
    inflight_bytes = 4 * _FRAGMENT_BYTES

    @classmethod
    def make_wire(cls, message_bytes: int) -> tuple[PyEndpoint, PyEndpoint]:
        fragment_bytes = min(message_bytes, _FRAGMENT_BYTES)
        try:
            sending, receiving = _open_both_ends(fragment_bytes)
        except (posix_ipc.Error, ValueError) as error:
            raise OSError(f"mq_open: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            # posix_ipc gives EMFILE no number, and words it as if it could only mean open files.
            why = "mq_open: RLIMIT_MSGQUEUE or RLIMIT_NOFILE is reached"
            raise OSError(errno.EMFILE, why) from error
        return MqSender(sending, message_bytes), MqReceiver(receiving, message_bytes)


def _open_both_ends(
    fragment_bytes: int,
) -> tuple[posix_ipc.MessageQueue, posix_ipc.MessageQueue]:
    """A new queue that has no name any more: open for writing, and open for reading."""
    name = unique_name()
    sending = posix_ipc.MessageQueue(
        name,
        posix_ipc.O_CREX,
        mode=0o600,
        max_messages=_MESSAGES,
        max_message_size=fragment_bytes,
        read=False,
    )
    try:
        return sending, posix_ipc.MessageQueue(name, write=False)
    except BaseException:
        sending.close()
        raise
    finally:
        posix_ipc.unlink_message_queue(name)
