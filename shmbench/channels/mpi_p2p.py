"""Messages between MPI ranks, as mpi4py sends them: MPI 4.1, chapter 3.

All are of the python driver: a call of mpi4py is made for each message, and that is what a program
over mpi4py gets.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

from shmbench.channels import ChannelSpec, Driver, Endpoint
from shmbench.channels.pairwise import PairwiseChannel, Wire, wires
from shmbench.channels.py_wires import PyEndpoint, fitted, too_small
from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.native.bound import bound
from shmbench.regions import Span
from shmbench.regions.mpi_window import communicator, lacking

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm, Prequest, Request

_WINDOW = 64  # requests that an end keeps under way, as OSU's bandwidth tests do


class MpiChannel(PairwiseChannel):
    """Base of all channels of MPI's: a communicator of their own, and one end a wire."""

    driver: ClassVar[Driver] = "python"
    # The sender's copy into shared memory and the receiver's out of it; a library may do with one.
    copies: ClassVar[int] = 2
    needs_mpi: ClassVar[bool] = True
    inflight_messages: ClassVar[int] = _WINDOW
    inflight_bytes: ClassVar[int] = 1 << 40

    def __init__(self, comm: Intracomm, spec: ChannelSpec) -> None:
        self.comm = comm
        self.rank = comm.rank
        self.spec = spec
        self._ends: dict[int, PyEndpoint] = {}

    @classmethod
    def probe(cls, spec: ChannelSpec | None = None) -> Unavailable | None:
        return lacking()

    @classmethod
    def open(
        cls, group: Group, spec: ChannelSpec, region: Span | None, inherited: Any = None
    ) -> Self:
        return cls(communicator(cls.kind, group).Dup(), spec)

    @abstractmethod
    def make_end(self, index: int, wire: Wire, sends: bool) -> PyEndpoint:
        """One end of wires(spec)[index]."""

    def _end(self, index: int, sends: bool) -> PyEndpoint:
        if index not in self._ends:
            self._ends[index] = self.make_end(index, wires(self.spec)[index], sends)
        return self._ends[index]

    def wire_sender(self, wire: int) -> Endpoint:
        return self._end(wire, sends=True)

    def wire_receiver(self, wire: int) -> Endpoint:
        return self._end(wire, sends=False)

    def close(self) -> None:
        for end in self._ends.values():
            end.close()
        self._ends.clear()
        comm, self.comm = self.comm, None  # type: ignore[assignment]
        if comm is not None:
            comm.Free()


def _explained(error: Exception, buffer: memoryview) -> Exception:
    """The error of a message that is longer than the buffer, in the words of all channels."""
    return too_small(len(buffer), len(buffer) + 1) if _is_truncation(error) else error


def _is_truncation(error: Exception) -> bool:
    from mpi4py import MPI

    return isinstance(error, MPI.Exception) and error.Get_error_class() == MPI.ERR_TRUNCATE


class _P2pEnd(PyEndpoint):
    """One end over MPI_Send and MPI_Recv.

    All messages of a link have one size, so nobody asks MPI for a status, as programs don't. What
    doesn't change is bound once, natively, so that the time is mpi4py's and not that of a wrapper.
    """

    def __init__(self, comm: Intracomm, peer: int, tag: int, message_bytes: int) -> None:
        self.send = self.post = bound(comm.Send, peer, tag)  # type: ignore[assignment, method-assign]
        self.recv_into = bound(  # type: ignore[assignment, method-assign]
            comm.Recv, peer, tag, result=message_bytes, explained=_explained
        )


class MpiP2p(MpiChannel):
    """Send and Recv of buffers; a send may wait for its receiver."""

    kind = "mpi_p2p"
    inflight_bytes = 0

    def make_end(self, index: int, wire: Wire, sends: bool) -> PyEndpoint:
        peer = wire.target if sends else wire.source
        return _P2pEnd(self.comm, peer, index, self.spec.message_bytes)


class _NonblockingEnd(PyEndpoint):
    """One end over MPI_Isend and MPI_Irecv: whole windows are under way."""

    def __init__(self, comm: Intracomm, peer: int, tag: int, message_bytes: int) -> None:
        from mpi4py import MPI

        self._comm, self._peer, self._tag = comm, peer, tag
        self._message_bytes = message_bytes
        self._waitall = MPI.Request.Waitall
        self._pending: list[Request] = []

    def send(self, message: memoryview) -> None:
        self._comm.Isend(message, self._peer, self._tag).Wait()

    def post(self, message: memoryview) -> None:
        self._pending.append(self._comm.Isend(message, self._peer, self._tag))

    def recv_into(self, buffer: memoryview) -> int:
        try:
            self._comm.Irecv(buffer, self._peer, self._tag).Wait()
        except Exception as error:
            raise _explained(error, buffer) from error
        return self._message_bytes

    def post_recv(self, buffer: memoryview) -> None:
        """Begin to receive; the message is there when `complete` returns."""
        self._pending.append(self._comm.Irecv(buffer, self._peer, self._tag))

    def complete(self) -> None:
        self._waitall(self._pending)
        self._pending.clear()


class MpiP2pNonblocking(MpiChannel):
    """Isend and Irecv of buffers, a window of them at once where a workload has windows."""

    kind = "mpi_p2p_nonblocking"
    posts_receptions = True

    def make_end(self, index: int, wire: Wire, sends: bool) -> PyEndpoint:
        peer = wire.target if sends else wire.source
        return _NonblockingEnd(self.comm, peer, index, self.spec.message_bytes)


class _PersistentEnd(PyEndpoint):
    """One end over persistent requests, made anew only when the buffer is another one.

    Args:
        make: Send_init or Recv_init for a buffer.
    """

    def __init__(self, make: Callable[[memoryview], Prequest], message_bytes: int) -> None:
        from mpi4py import MPI

        self._make, self._message_bytes = make, message_bytes
        self._waitall = MPI.Request.Waitall
        self._buffer: memoryview | None = None
        self._requests: list[Prequest] = []  # for this buffer; the first `_started` are under way
        self._started = 0
        self._leaving: list[Prequest] = []  # under way, for buffers before this one

    def _next(self, buffer: memoryview) -> Prequest:
        """A request for this buffer that isn't under way."""
        if buffer is not self._buffer:
            self._leaving += self._requests[: self._started]
            for request in self._requests[self._started :]:
                request.Free()
            self._requests, self._started, self._buffer = [], 0, buffer
        elif self._started == _WINDOW:
            self.complete()
        if self._started == len(self._requests):
            self._requests.append(self._make(buffer))
        return self._requests[self._started]

    def recv_into(self, buffer: memoryview) -> int:
        request = self._next(buffer)
        try:
            request.Start()
            request.Wait()
        except Exception as error:
            raise _explained(error, buffer) from error
        return self._message_bytes

    def send(self, message: memoryview) -> None:
        request = self._next(message)
        request.Start()
        request.Wait()

    def post(self, message: memoryview) -> None:
        self._next(message).Start()
        self._started += 1

    post_recv = post  # the request knows which of the two it is

    def complete(self) -> None:
        self._waitall(self._requests[: self._started] + self._leaving)
        for request in self._leaving:
            request.Free()
        self._started = 0
        self._leaving = []

    def close(self) -> None:
        for request in self._requests:
            request.Free()
        self._requests, self._buffer = [], None


class MpiPersistent(MpiChannel):
    """Send_init, Recv_init and Start: what doesn't change is said once."""

    kind = "mpi_persistent"
    posts_receptions = True

    def make_end(self, index: int, wire: Wire, sends: bool) -> PyEndpoint:
        comm, size = self.comm, self.spec.message_bytes
        if sends:
            return _PersistentEnd(lambda message: comm.Send_init(message, wire.target, index), size)
        return _PersistentEnd(lambda buffer: comm.Recv_init(buffer, wire.source, index), size)


class _PickleEnd(PyEndpoint):
    """One end over mpi4py's lower-case calls: each message is an object that is pickled."""

    def __init__(self, comm: Intracomm, peer: int, tag: int) -> None:
        self._comm, self._peer, self._tag = comm, peer, tag

    def send(self, message: memoryview) -> None:
        self._comm.send(bytes(message), self._peer, self._tag)

    post = send

    def recv_into(self, buffer: memoryview) -> int:
        message: bytes = self._comm.recv(None, self._peer, self._tag)
        fitted(buffer, len(message))[:] = message
        return len(message)


class MpiP2pPickle(MpiChannel):
    """send and recv of objects (pickle); a send may wait for its receiver."""

    kind = "mpi_p2p_pickle"
    copies = 4  # two more, into the pickle and out of it
    inflight_bytes = 0

    def make_end(self, index: int, wire: Wire, sends: bool) -> PyEndpoint:
        return _PickleEnd(self.comm, wire.target if sends else wire.source, index)
