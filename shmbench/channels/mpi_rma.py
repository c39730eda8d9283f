"""One-sided operations between MPI ranks as channels: MPI 4.1, chapter 12, through mpi4py.

A wire is a window over its two ranks (0 the source, 1 the target), in which each exposes a few
slots and a counter:

    word 0       how many messages this rank has taken out, told by the target
    slot n       a line with the number of the message in it, counted from 1; then the message

Which side calls what is what tells the kinds apart. A rank that polls its own memory calls
MPI_Win_sync, and now and then MPI_Iprobe, without which some libraries move nothing.

Beside messages an end offers its operations by themselves, on the peer's first slot:
`operation(name)` gives the call, `flush` waits until all are done there, `meet` is a barrier of the
two ranks in which the peer makes progress, and `exposed` is what the peer's operations see.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from shmbench.channels import ChannelSpec
from shmbench.channels.mpi_p2p import MpiChannel
from shmbench.channels.pairwise import Wire, wires
from shmbench.channels.py_mailbox import slot_count
from shmbench.channels.py_wires import PyEndpoint, fitted
from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.regions import Span

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm, Win

_LINE_BYTES = 64
_LOOKS_BEFORE_PROGRESS = 64
_SOURCE, _TARGET = 0, 1


class _WindowEnd(PyEndpoint):
    """What all ends share: the window, its layout, and waiting on this rank's own part of it.

    Attributes:
        words: this rank's part as 64-bit words; words[0] is the counter.
        peer: the wire's other rank.
    """

    def __init__(self, comm: Intracomm, message_bytes: int, yielding: bool) -> None:
        from mpi4py import MPI

        self._comm, self._yielding = comm, yielding
        self.peer = 1 - comm.rank
        self._message_bytes = message_bytes
        self._slots = slot_count(message_bytes)
        stride = _LINE_BYTES + -(-message_bytes // _LINE_BYTES) * _LINE_BYTES
        self._offsets = [_LINE_BYTES + slot * stride for slot in range(self._slots)]
        self.window: Win = MPI.Win.Allocate(
            _LINE_BYTES + self._slots * stride, 1, MPI.INFO_NULL, comm
        )
        self.memory = memoryview(cast("Any", self.window.tomemory())).cast("B")
        self.memory[:] = bytes(len(self.memory))
        self.words = self.memory.cast("Q")
        self.word = memoryview(bytearray(8))  # what is put or got, as bytes
        self.value = self.word.cast("Q")
        self._passed = 0  # messages
        self._open_epoch()

    def _open_epoch(self) -> None:
        self.window.Lock_all()
        self._comm.Barrier()  # nobody writes before both have cleared

    def _close_epoch(self) -> None:
        self.window.Unlock_all()

    def _await(self, index: int, least: int) -> None:
        """Wait until a word of this rank's own memory is at least `least`."""
        words, sync = self.words, self.window.Sync
        for looks in count(1):
            sync()
            if words[index] >= least:
                return
            self._pause(looks)

    def _pause(self, looks: int) -> None:
        if looks % _LOOKS_BEFORE_PROGRESS == 0:
            self._comm.Iprobe()
        if self._yielding:
            os.sched_yield()

    def _slot(self) -> int:
        """Where the next message's slot is."""
        return self._offsets[self._passed % self._slots]

    def _take(self, buffer: memoryview) -> int:
        """Copy the next message out of this rank's own memory."""
        at = self._slot() + _LINE_BYTES
        fitted(buffer, self._message_bytes)[:] = self.memory[at : at + self._message_bytes]
        self._passed += 1
        return self._message_bytes

    @property
    def exposed(self) -> memoryview:
        """This rank's first slot, as long as a message."""
        at = self._offsets[0] + _LINE_BYTES
        return self.memory[at : at + self._message_bytes]

    def operation(self, name: str) -> Callable[[memoryview], None]:
        """One of the channel's `one_sided` operations, on the peer's first slot."""
        raise KeyError(name)

    def flush(self) -> None:
        """Wait until what was begun is done at the peer."""
        self.window.Flush(self.peer)

    def meet(self) -> None:
        """Collective over the wire's two ranks: each sees what the other has done."""
        self.window.Sync()
        self._comm.Barrier()
        self.window.Sync()

    def free(self) -> None:
        """Collective over the wire's two ranks, so it is the channel that calls it, in order."""
        self.words.release()
        self.memory.release()
        self._close_epoch()
        self.window.Free()
        self._comm.Free()


class _PutEnd(_WindowEnd):
    """The source puts message and number, flushing between; the target polls its own memory."""

    def send(self, message: memoryview) -> None:
        if self._passed >= self._slots:
            self._await(0, self._passed - self._slots + 1)
        window, at = self.window, self._slot()
        window.Put(message, _TARGET, at + _LINE_BYTES)
        window.Flush(_TARGET)
        self._passed += 1
        self._notify(at)

    post = send

    def _notify(self, at: int) -> None:
        self.value[0] = self._passed
        self.window.Put(self.word, _TARGET, at)
        self.window.Flush(_TARGET)

    def recv_into(self, buffer: memoryview) -> int:
        self._await(self._slot() // 8, self._passed + 1)
        received = self._take(buffer)
        self.value[0] = self._passed
        self.window.Put(self.word, _SOURCE, 0)
        self.window.Flush(_SOURCE)
        return received

    def operation(self, name: str) -> Callable[[memoryview], None]:
        put, peer, at = self.window.Put, self.peer, self._offsets[0] + _LINE_BYTES
        return {"put": lambda message: put(message, peer, at)}[name]


class _AtomicEnd(_PutEnd):
    """As put, but the number is handed over by an atomic, and a slot taken by one."""

    def __init__(self, comm: Intracomm, message_bytes: int, yielding: bool) -> None:
        from mpi4py import MPI

        super().__init__(comm, message_bytes, yielding)
        self._replace, self._sum = MPI.REPLACE, MPI.SUM
        self._first, self._swapped = self._offsets[0] + _LINE_BYTES, 0
        self._old = memoryview(bytearray(8)).cast("Q")
        self._one = memoryview(bytearray(8)).cast("Q")
        self._expected = memoryview(bytearray(8)).cast("Q")

    def _notify(self, at: int) -> None:
        self._one[0] = self._passed
        self.window.Fetch_and_op(self._one, self._old, _TARGET, at, self._replace)
        self.window.Flush(_TARGET)

    def recv_into(self, buffer: memoryview) -> int:
        self._await(self._slot() // 8, self._passed + 1)
        self._expected[0] = self._passed
        received = self._take(buffer)
        self._one[0] = self._passed
        self.window.Compare_and_swap(self._one, self._expected, self._old, _SOURCE, 0)
        self.window.Flush(_SOURCE)
        return received

    def operation(self, name: str) -> Callable[[memoryview], None]:
        """Each adds one to the peer's first word, or swaps in one more than it had."""
        return {"fetch_and_op": self._add_one, "compare_and_swap": self._swap}[name]

    def _add_one(self, message: memoryview) -> None:
        self._one[0] = 1
        self.window.Fetch_and_op(self._one, self._old, self.peer, self._first, self._sum)

    def _swap(self, message: memoryview) -> None:
        self._expected[0] = self._swapped
        self._swapped += 1
        self._one[0] = self._swapped
        self.window.Compare_and_swap(self._one, self._expected, self._old, self.peer, self._first)


class _GetEnd(_WindowEnd):
    """The source writes its own memory; the target gets the number until it is there, then the
    message. The source gets the target's counter when its slots are full."""

    def __init__(self, comm: Intracomm, message_bytes: int, yielding: bool) -> None:
        super().__init__(comm, message_bytes, yielding)
        self._taken = 0

    def _await_remote(self, rank: int, at: int, least: int) -> int:
        """Get a word of another rank until it is at least `least`."""
        window = self.window
        for looks in count(1):
            window.Get(self.word, rank, at)
            window.Flush(rank)
            if self.value[0] >= least:
                break
            self._pause(looks)
        return self.value[0]

    def send(self, message: memoryview) -> None:
        if self._passed >= self._taken + self._slots:
            self._taken = self._await_remote(_TARGET, 0, self._passed - self._slots + 1)
        at = self._slot()
        self.memory[at + _LINE_BYTES : at + _LINE_BYTES + self._message_bytes] = message
        self.window.Sync()
        self._passed += 1
        self.words[at // 8] = self._passed
        self.window.Sync()

    post = send

    def recv_into(self, buffer: memoryview) -> int:
        at = self._slot()
        self._await_remote(_SOURCE, at, self._passed + 1)
        part = fitted(buffer, self._message_bytes)
        self.window.Get(part, _SOURCE, at + _LINE_BYTES)
        self.window.Flush(_SOURCE)
        self._passed += 1
        self.words[0] = self._passed
        self.window.Sync()
        return self._message_bytes

    def operation(self, name: str) -> Callable[[memoryview], None]:
        get, peer, at = self.window.Get, self.peer, self._offsets[0] + _LINE_BYTES
        return {"get": lambda buffer: get(buffer, peer, at)}[name]


class _FenceEnd(_WindowEnd):
    """Both ranks call MPI_Win_fence for each message, which is there after it.

    Slots take turns: the source may put the next message while the target copies the last.
    """

    def _open_epoch(self) -> None:
        self._comm.Barrier()
        self.window.Fence()

    def _close_epoch(self) -> None:
        self.window.Fence()

    def send(self, message: memoryview) -> None:
        self.window.Put(message, _TARGET, self._slot() + _LINE_BYTES)
        self.window.Fence()
        self._passed += 1

    post = send

    def recv_into(self, buffer: memoryview) -> int:
        fitted(buffer, self._message_bytes)  # before the fence: an error leaves the epoch as it is
        self.window.Fence()
        return self._take(buffer)


class _RmaChannel(MpiChannel):
    """Base of all: a window a wire, made by its two ranks, wires in their order."""

    inflight_messages: ClassVar[int] = 2
    end: ClassVar[type[_WindowEnd]]
    _windows: list[_WindowEnd]  # of this rank's wires, in their order

    @classmethod
    def open(
        cls, group: Group, spec: ChannelSpec, region: Span | None, inherited: Any = None
    ) -> Self:
        channel = super().open(group, spec, region, inherited)
        channel._windows = []
        for index, wire in enumerate(wires(spec)):
            if channel.rank in (wire.source, wire.target):
                channel._end(index, sends=channel.rank == wire.source)
        return channel

    def close(self) -> None:
        ends, self._windows = self._windows, []
        for end in ends:
            end.free()
        super().close()

    def make_end(self, index: int, wire: Wire, sends: bool) -> PyEndpoint:
        pair = self.comm.group.Incl([wire.source, wire.target])
        comm = self.comm.Create_group(pair, index)
        end = self.end(comm, self.spec.message_bytes, self.spec.yielding)
        self._windows.append(end)
        return end


class MpiRmaPut(_RmaChannel):
    """Put and flush in a window that is locked throughout (MPI_Win_lock_all)."""

    kind = "mpi_rma_put"
    one_sided = ("put",)
    end = _PutEnd


class MpiRmaPutFence(_RmaChannel):
    """Put between fences: a send waits for its receiver."""

    kind = "mpi_rma_put_fence"
    inflight_bytes = 0
    end = _FenceEnd


class MpiRmaGet(_RmaChannel):
    """Get and flush: the receiver fetches, and so does a sender that waits for a slot."""

    kind = "mpi_rma_get"
    one_sided = ("get",)
    end = _GetEnd


class MpiRmaAtomic(_RmaChannel):
    """Put, handed over by MPI_Fetch_and_op and acknowledged by MPI_Compare_and_swap."""

    kind = "mpi_rma_atomic"
    one_sided = ("fetch_and_op", "compare_and_swap")
    end = _AtomicEnd

    @classmethod
    def probe(cls, spec: ChannelSpec | None = None) -> Unavailable | None:
        return super().probe(spec) or _crashes()


def _crashes() -> Unavailable | None:
    """Atomics of Open MPI 4's component osc/rdma end the process with SIGSEGV (seen with 4.1.4).

    Known only in a rank, where MPI is loaded.
    """
    if "mpi4py.MPI" not in sys.modules or "OMPI_MCA_osc" in os.environ:
        return None
    from mpi4py import MPI

    vendor, version = MPI.get_vendor()
    if vendor != "Open MPI" or version[0] != 4:
        return None
    return Unavailable(
        "mpi_rma_atomic: Open MPI 4 crashes in atomics of its component osc/rdma",
        "choose another with: export OMPI_MCA_osc=^rdma",
    )
