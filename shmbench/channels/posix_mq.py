"""A POSIX message queue a wire (mq_overview(7)), which has no name any more when ranks start."""

from __future__ import annotations

import errno
import os
import resource
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import posix_ipc

from shmbench.channels import ChannelSpec
from shmbench.channels.descriptors import DescriptorChannel
from shmbench.channels.pairwise import wires
from shmbench.errors import Unavailable
from shmbench.native.descriptors import QueueEndpoint

_LIMITS = Path("/proc/sys/fs/mqueue")
# What the kernel charges at most beside the bytes themselves, for each message that a queue can
# hold: a struct msg_msg and a tree node (setrlimit(2), RLIMIT_MSGQUEUE).
_MESSAGE_OVERHEAD_BYTES = 128


def _limit(name: str, default: int) -> int:
    """A limit for ordinary users; its documented default where the kernel has no queues."""
    try:
        return int((_LIMITS / name).read_text())
    except OSError:
        return default


_DEPTH = min(10, _limit("msg_max", 10))
_PIECE_BYTES_MAX = min(8192, _limit("msgsize_max", 8192))


class PosixMqChannel(DescriptorChannel):
    """Messages through a queue of up to 10 pieces of up to 8 KiB each, the kernel's defaults.

    Larger messages go in several pieces. A rank whose peer died waits for ever, because a queue has
    no ends that could close.
    """

    kind = "posix_mq"
    inflight_messages = _DEPTH
    # A message just larger than a piece takes two of them.
    inflight_bytes = _DEPTH * _PIECE_BYTES_MAX // 2
    remedies: ClassVar[Mapping[int, str]] = {
        errno.ENOSYS: "this needs a kernel with CONFIG_POSIX_MQUEUE",
        errno.ENOSPC: "allow more queues with: sysctl fs.mqueue.queues_max=1024",
    }

    @classmethod
    def probe(cls, spec: ChannelSpec | None = None) -> Unavailable | None:
        return (spec and _too_many_bytes(spec)) or super().probe(spec)

    @classmethod
    def connect(cls, spec: ChannelSpec) -> tuple[int, int]:
        name = f"/shmbench-{os.getuid()}-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            queue = posix_ipc.MessageQueue(
                name,
                posix_ipc.O_CREX,
                mode=0o600,
                max_messages=_DEPTH,
                max_message_size=_piece_bytes(spec),
            )
        except OSError as error:
            if error.errno is not None:
                raise
            # posix_ipc says EMFILE, which RLIMIT_MSGQUEUE is too, without a number.
            raise _too_many_bytes(spec) or Unavailable(
                "posix_mq: this user's queues or this process's files have reached their limit",
                "close others, or raise both limits: ulimit -q unlimited; ulimit -n 4096",
            ) from error
        queue.unlink()
        try:
            return queue.mqd, os.dup(queue.mqd)
        except OSError:
            queue.close()
            raise

    @classmethod
    def endpoint(cls, fd: int, spec: ChannelSpec) -> QueueEndpoint:
        return QueueEndpoint(fd, spec.message_bytes, _piece_bytes(spec))


def _piece_bytes(spec: ChannelSpec) -> int:
    return min(spec.message_bytes, _PIECE_BYTES_MAX)


def _too_many_bytes(spec: ChannelSpec) -> Unavailable | None:
    """Why this user may not have the queues of all wires at once; None where it may."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    queue_bytes = _DEPTH * (_piece_bytes(spec) + _MESSAGE_OVERHEAD_BYTES)
    wanted = queue_bytes * len(wires(spec))
    if allowed == resource.RLIM_INFINITY or wanted <= allowed:
        return None
    return Unavailable(
        f"posix_mq: {len(wires(spec))} queues want {wanted} B, RLIMIT_MSGQUEUE allows {allowed} B",
        f"raise it with: ulimit -q {wanted}, or use fewer ranks or smaller messages",
    )
