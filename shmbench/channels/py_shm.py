"""Shared memory as Python programs use it: a mailbox of a few slots in a region's memory.

`semaphore` waits in posix_ipc.Semaphore, `flag` looks at a NumPy array until it changes.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import posix_ipc

from shmbench.channels import ChannelSpec
from shmbench.channels.pairwise import wires
from shmbench.channels.py_mailbox import Flag, Mailbox, MailboxChannel, MailboxEnd, slot_count
from shmbench.channels.py_wires import PyEndpoint, closed, fitted, refusal, unique_name
from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.regions import Span

_LOOKS_BEFORE_YIELD = 100


def _wait_while(look: Callable[[], int], value: int, looks: range) -> None:
    """Look at a counter until it isn't `value` any more; give the CPU away after each `looks`."""
    while True:
        for _ in looks:
            if look() != value:
                return
        os.sched_yield()


class _FlagEnd(MailboxEnd):
    """Polls the other side's counter and advances its own."""

    def __init__(self, mailbox: Mailbox, theirs: Flag, own: Flag, looks: range) -> None:
        super().__init__(mailbox)
        self._look: Callable[[], int] = theirs.item  # the fastest way to a Python int
        self._own = own
        self._count = 0  # messages that have passed here
        self._looks = looks

    def close(self) -> None:
        super().close()
        self._look = closed
        self._own = np.empty(1, np.uint64)


class FlagSender(_FlagEnd):
    """Waits for a slot, fills it, then says so."""

    def __init__(self, mailbox: Mailbox, looks: range) -> None:
        super().__init__(mailbox, mailbox.taken, mailbox.filled, looks)
        self._slots = len(mailbox.slots)

    def send(self, message: memoryview) -> None:
        count = self._count
        full = count - self._slots  # when that many are taken, each slot holds a message
        if self._look() == full:
            _wait_while(self._look, full, self._looks)
        self._next_slot()[:] = message
        # The counter must become visible after the slot. The interpreter moves no access across
        # another, and x86-64 keeps the order of stores, of loads, and of a load and a later store
        # (total store order; glibc ends a copy by non-temporal stores with a fence). aarch64 would
        # need a release store here and an acquire load in `_look`, which Python doesn't have.
        self._count = self._own[0] = count + 1

    post = send


class FlagReceiver(_FlagEnd):
    """Waits for a message, takes it, then gives the slot back."""

    def __init__(self, mailbox: Mailbox, looks: range) -> None:
        super().__init__(mailbox, mailbox.filled, mailbox.taken, looks)

    def recv_into(self, buffer: memoryview) -> int:
        size = self._message_bytes
        if len(buffer) != size:
            buffer = fitted(buffer, size)
        count = self._count
        if self._look() == count:
            _wait_while(self._look, count, self._looks)
        buffer[:] = self._next_slot()
        self._count = self._own[0] = count + 1
        return size


class InheritedSemaphores:
    """The semaphores of every wire, made by the leader.

    Attributes:
        filled: by wire, how many slots hold a message.
        free: by wire, how many slots hold none.
    """

    def __init__(self) -> None:
        self.filled: list[posix_ipc.Semaphore] = []
        self.free: list[posix_ipc.Semaphore] = []

    def close(self) -> None:
        """Unmap them in this process; idempotent."""
        for semaphores in (self.filled, self.free):
            while semaphores:
                semaphores.pop().close()


def _nameless_semaphore(value: int) -> posix_ipc.Semaphore:
    """A semaphore that only this process and those that it forks can use."""
    semaphore = posix_ipc.Semaphore(
        unique_name(), posix_ipc.O_CREX, mode=0o600, initial_value=value
    )
    semaphore.unlink()
    return semaphore


class SemaphoreSender(MailboxEnd):
    """Waits for a free slot, fills it, then posts."""

    def __init__(
        self, mailbox: Mailbox, filled: posix_ipc.Semaphore, free: posix_ipc.Semaphore
    ) -> None:
        super().__init__(mailbox)
        self._acquire_free = free.acquire
        self._release_filled = filled.release

    def send(self, message: memoryview) -> None:
        self._acquire_free()
        self._next_slot()[:] = message
        self._release_filled()

    post = send


class SemaphoreReceiver(MailboxEnd):
    """Waits for a filled slot, takes the message, then gives the slot back."""

    def __init__(
        self, mailbox: Mailbox, filled: posix_ipc.Semaphore, free: posix_ipc.Semaphore
    ) -> None:
        super().__init__(mailbox)
        self._acquire_filled = filled.acquire
        self._release_free = free.release

    def recv_into(self, buffer: memoryview) -> int:
        size = self._message_bytes
        if len(buffer) != size:
            buffer = fitted(buffer, size)
        self._acquire_filled()
        buffer[:] = self._next_slot()
        self._release_free()
        return size


class PyFlagChannel(MailboxChannel):
    """Both sides spin on a counter in a NumPy array."""

    kind = "flag"

    @classmethod
    def probe(cls, spec: ChannelSpec | None = None) -> Unavailable | None:
        machine = platform.machine()
        if machine != "x86_64":
            return Unavailable(
                f"python/flag: {machine} may reorder stores, and Python has no barrier",
                "use python/semaphore, or native/spin",
            )
        return None

    @classmethod
    def open(
        cls, group: Group, spec: ChannelSpec, region: Span | None, inherited: Any = None
    ) -> Self:
        assert region is not None
        return cls(group.rank, spec, region.memory)

    def make_end(self, wire: int, sends: bool, mailbox: Mailbox) -> PyEndpoint:
        looks = range(_LOOKS_BEFORE_YIELD if self.spec.yielding else sys.maxsize)
        return FlagSender(mailbox, looks) if sends else FlagReceiver(mailbox, looks)


class PySemaphoreChannel(MailboxChannel):
    """Both sides wait in posix_ipc.Semaphore."""

    kind = "semaphore"
    needs_fork = True

    def __init__(
        self, rank: int, spec: ChannelSpec, memory: memoryview, inherited: InheritedSemaphores
    ) -> None:
        super().__init__(rank, spec, memory)
        self._inherited = inherited

    @classmethod
    def probe(cls, spec: ChannelSpec | None = None) -> Unavailable | None:
        return refusal(cls, spec)

    @classmethod
    def inherit(cls, spec: ChannelSpec) -> InheritedSemaphores:
        made = InheritedSemaphores()
        try:
            for _ in wires(spec):
                made.filled.append(_nameless_semaphore(0))
                made.free.append(_nameless_semaphore(slot_count(spec.message_bytes)))
        except (OSError, posix_ipc.Error) as error:
            made.close()
            raise Unavailable(
                f"python/semaphore: can't make a semaphore: {error}",
                "semaphores are files in /dev/shm: look whether it is there, writable and not full",
            ) from error
        return made

    @classmethod
    def open(
        cls, group: Group, spec: ChannelSpec, region: Span | None, inherited: Any = None
    ) -> Self:
        assert region is not None
        return cls(group.rank, spec, region.memory, inherited)

    def make_end(self, wire: int, sends: bool, mailbox: Mailbox) -> PyEndpoint:
        end = SemaphoreSender if sends else SemaphoreReceiver
        return end(mailbox, self._inherited.filled[wire], self._inherited.free[wire])

    def close(self) -> None:
        super().close()
        self._inherited.close()
