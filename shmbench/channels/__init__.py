"""Channels: moving a message between ranks. One kind a file, one line a kind below.

A workload names its *links* (who sends to whom); a channel opens them all at once and gives each
rank an *endpoint* for each link that it takes part in. The loops run over endpoints and know no
kind.

The life of a channel in a process group: the leader calls `inherit` before it forks (descriptors,
queues); each rank calls `open`, then `sender` and `receiver` for its links, and `close`.

A channel's name in the registry is `driver/kind`: the same transport may be there natively and
from Python, and the two are never mixed up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.regions import Span
from shmbench.registry import Registry

Driver = Literal["native", "python"]


@dataclass(frozen=True)
class Link:
    """One sender and those who receive every message of it, by rank."""

    source: int
    targets: tuple[int, ...]


@dataclass(frozen=True)
class ChannelSpec:
    """What a channel has to carry.

    Attributes:
        links: all links of the workload; endpoints are asked for by index into it.
        message_bytes: the size of every message, at least 1.
        yielding: more ranks than CPUs: spinning must give the CPU away (sched_yield).
    """

    links: tuple[Link, ...]
    message_bytes: int
    yielding: bool = False


class Endpoint(Protocol):
    """One end of a link. Native endpoints (`shmbench.native.endpoint.Endpoint`) have the same
    methods for C callers, which is what the native loops use."""

    def send(self, message: memoryview) -> None:
        """Hand one message over; returns when `message` may be changed again."""

    def recv_into(self, buffer: memoryview) -> int:
        """Wait for the next message, put it into buffer, and give its length in bytes."""

    def post(self, message: memoryview) -> None:
        """Begin to send; `message` must stay as it is until `complete`. Doesn't wait for a receiver
        while no more than the channel's `inflight_bytes` are under way."""

    def complete(self) -> None:
        """Wait until everything posted may be changed again.

        An end of a channel that `posts_receptions` has a method `post_recv` beside these: it begins
        one, and `complete` waits for all of them. Those of a channel with `one_sided` operations
        have `operation`, `flush` and `meet`, see `shmbench.channels.mpi_rma`.
        """

    def close(self) -> None:
        """Release what this end owns; idempotent."""


class Channel(ABC):
    """All links of one case over one transport, seen from one rank."""

    kind: ClassVar[str]
    driver: ClassVar[Driver]
    copies: ClassVar[int]  # how often a message's bytes are copied from sender to receiver; 0: null
    uses_region: ClassVar[bool] = False  # it moves messages through a Region's memory
    needs_fork: ClassVar[bool] = False  # endpoints pass by inheritance only
    needs_mpi: ClassVar[bool] = False  # the ranks have to be an MPI job's
    delivers: ClassVar[bool] = True  # False for null: nothing arrives, so nothing is validated
    posts_receptions: ClassVar[bool] = False  # several receptions of an end may be under way
    one_sided: ClassVar[tuple[str, ...]] = ()  # what one rank can do to another's memory alone
    inflight_messages: ClassVar[int] = 1  # messages a link holds with no receiver, without blocking
    inflight_bytes: ClassVar[int] = 32768  # the same in bytes; 0: a send may wait for its recv

    @classmethod
    def probe(cls, spec: ChannelSpec | None = None) -> Unavailable | None:
        """Can this machine carry it? If not, why, and the remedy. Leaves nothing behind."""
        return None

    @classmethod
    def region_bytes(cls, spec: ChannelSpec) -> int:
        """How much of a region's memory it wants; 0 where `uses_region` is False."""
        return 0

    @classmethod
    def inherit(cls, spec: ChannelSpec) -> Any:
        """What must exist before ranks are forked; None for channels that need nothing.

        What has a name in the system (message queue, semaphore) is unlinked before this returns.
        """
        return None

    @classmethod
    @abstractmethod
    def open(
        cls, group: Group, spec: ChannelSpec, region: Span | None, inherited: Any = None
    ) -> Self:
        """Collective: every rank calls it. `region.memory` is zeroed or was never written."""

    @abstractmethod
    def sender(self, link: int) -> Endpoint:
        """This rank's sending end of spec.links[link]; this rank is its source."""

    @abstractmethod
    def receiver(self, link: int) -> Endpoint:
        """This rank's receiving end of spec.links[link]; this rank is one of its targets."""

    @abstractmethod
    def close(self) -> None:
        """Release everything this rank holds; idempotent."""


CHANNELS: Registry[Channel] = Registry(
    "channel",
    {
        "native/spin": "shmbench.channels.ring:SpinRing",
        "native/futex": "shmbench.channels.ring:FutexRing",
        "native/adaptive": "shmbench.channels.ring:AdaptiveRing",
        "native/semaphore": "shmbench.channels.ring:SemaphoreRing",
        "native/eventfd": "shmbench.channels.ring:EventfdRing",
        "native/pipe": "shmbench.channels.pipe:PipeChannel",
        "native/unix_stream": "shmbench.channels.sockets:UnixStreamChannel",
        "native/unix_seqpacket": "shmbench.channels.sockets:UnixSeqpacketChannel",
        "native/tcp": "shmbench.channels.sockets:TcpChannel",
        "native/posix_mq": "shmbench.channels.posix_mq:PosixMqChannel",
        "native/cma": "shmbench.channels.cma:CmaChannel",
        "native/null": "shmbench.channels.null:NativeNullChannel",
        "python/semaphore": "shmbench.channels.py_shm:PySemaphoreChannel",
        "python/flag": "shmbench.channels.py_shm:PyFlagChannel",
        "python/posix_mq": "shmbench.channels.py_posix_mq:PyPosixMqChannel",
        "python/mp_pipe": "shmbench.channels.py_multiprocessing:PyMpPipeChannel",
        "python/mp_queue": "shmbench.channels.py_multiprocessing:PyMpQueueChannel",
        "python/socket": "shmbench.channels.py_descriptors:PySocketChannel",
        "python/pipe": "shmbench.channels.py_descriptors:PyPipeChannel",
        "python/null": "shmbench.channels.null:PyNullChannel",
        "python/mpi_p2p": "shmbench.channels.mpi_p2p:MpiP2p",
        "python/mpi_p2p_nonblocking": "shmbench.channels.mpi_p2p:MpiP2pNonblocking",
        "python/mpi_persistent": "shmbench.channels.mpi_p2p:MpiPersistent",
        "python/mpi_p2p_pickle": "shmbench.channels.mpi_p2p:MpiP2pPickle",
        "python/mpi_rma_put": "shmbench.channels.mpi_rma:MpiRmaPut",
        "python/mpi_rma_put_fence": "shmbench.channels.mpi_rma:MpiRmaPutFence",
        "python/mpi_rma_get": "shmbench.channels.mpi_rma:MpiRmaGet",
        "python/mpi_rma_atomic": "shmbench.channels.mpi_rma:MpiRmaAtomic",
    },
    entry_point_group="shmbench.channels",
)
