"""A pipe a wire (pipe(7)), as large as an ordinary user may make it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from shmbench.channels import ChannelSpec
from shmbench.channels.descriptors import DescriptorChannel
from shmbench.errors import Unavailable
from shmbench.native.descriptors import PipeEndpoint

_LARGEST = Path("/proc/sys/fs/pipe-max-size")
_DEFAULT_BYTES = 65536


class PipeChannel(DescriptorChannel):
    """Messages as a byte stream through a pipe. A write to a rank that is gone is EPIPE.

    A pipe is a ring of page-sized buffers, of which a message may leave the last one partly empty:
    in the default 16 buffers there is always room for 16 messages of up to a page, and for 8 pages'
    bytes in larger ones.
    """

    kind = "pipe"
    inflight_messages = 16
    inflight_bytes = 32768

    @classmethod
    def connect(cls, spec: ChannelSpec) -> tuple[int, int]:
        receiving, sending = os.pipe()
        try:
            _enlarge(sending)
        except BaseException:
            os.close(receiving)
            os.close(sending)
            raise
        return sending, receiving

    @classmethod
    def endpoint(cls, fd: int, spec: ChannelSpec) -> PipeEndpoint:
        return PipeEndpoint(fd, spec.message_bytes)


def _enlarge(pipe: int) -> None:
    """Give the pipe the largest capacity that this user may have, the default's at least."""
    capacity = int(_LARGEST.read_text())
    while capacity > _DEFAULT_BYTES:
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, capacity)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            capacity //= 2  # this user's pipes together reach pipe-user-pages-soft
        else:
            return
    if fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) < _DEFAULT_BYTES:
        raise Unavailable(
            "pipe: this user's pipes have used up their memory, a new one gets two pages only",
            "close other pipes, or raise the limit: sysctl fs.pipe-user-pages-soft=65536",
        )
