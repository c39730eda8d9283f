"""Workloads: what is measured. One a file, one line below.

A workload is opened in each rank once per process group and then asked for batches. A batch of n
iterations is called in every rank at once, after a barrier; each rank gives the nanoseconds it
took by its own clock; those of `timing_rank` count (or the slowest rank's). What runs between the
two clock reads is a native loop (driver native) or this workload's own Python loop (driver python):
one each, for all channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from shmbench.cases import Cache, Case
from shmbench.channels import Channel, Driver, Link
from shmbench.errors import Unavailable
from shmbench.group import Group
from shmbench.measure.flags import Flag
from shmbench.regions import Span
from shmbench.regions.fixture import Fixture, FixtureSpec
from shmbench.registry import Registry

if TYPE_CHECKING:
    from shmbench.native.histogram import Histogram


@dataclass(frozen=True)
class Context:
    """What a workload has to work with in one rank.

    Attributes:
        region: the workload's own memory, `region_bytes` long; None where it wants none.
        channel: open for `links`; None where it uses no channel.
        acks: a second channel of the same kind, open for `ack_links` with messages of 8 bytes.
        cpus: of each rank.
        fixture: the file that `Workload.fixture` asked for; it outlives the process group.
        helper_cpus: where threads may run that a policy starts; not empty.
    """

    case: Case
    group: Group
    cpus: tuple[int, ...]
    fixture: Fixture | None = None
    helper_cpus: frozenset[int] = frozenset({0})
    region: Span | None = None
    channel: Channel | None = None
    acks: Channel | None = None


class Workload(ABC):
    """What is measured, seen from one rank."""

    name: ClassVar[str]
    family: ClassVar[Literal["ipc", "policy"]] = "ipc"
    summary: ClassVar[str]  # one line for `shmbench list`
    operation: ClassVar[str]  # what one operation is: "one-way message", "round trip", ...
    drivers: ClassVar[tuple[Driver, ...]] = ("native", "python")
    variants: ClassVar[tuple[str | None, ...]] = (None,)
    uses_channel: ClassVar[bool] = True
    uses_region: ClassVar[bool] = False  # memory of its own in a region, beside the channel's
    has_sizes: ClassVar[bool] = True  # message_bytes is an axis
    moves_bytes: ClassVar[bool] = False  # bytes_per_second is a figure of it
    has_percentiles: ClassVar[bool] = False
    has_limit: ClassVar[bool] = True  # over a channel; see shmbench.limits
    default_ranks: ClassVar[int] = 2
    min_ranks: ClassVar[int] = 2
    max_ranks: ClassVar[int | None] = None
    across_nodes: ClassVar[bool] = False  # MPI ranks i and i + ranks / 2 may be on two nodes
    needs_two_cpus: ClassVar[bool] = False  # it spins without yielding
    needs_fork: ClassVar[bool] = False  # its ranks have to be made for it, which MPI's aren't
    timing_rank: ClassVar[int | None] = 0  # None: the slowest rank's time counts
    # of the family "policy"
    regions: ClassVar[tuple[str, ...]] = ()  # kinds that it maps by itself, instead of being given
    policies: ClassVar[tuple[str, ...]] = ()
    caches: ClassVar[tuple[Cache, ...]] = ()
    file_sizes: ClassVar[tuple[int, ...]] = ()  # unless others are asked for
    warm_limit: ClassVar[str | None] = None  # the policy that shows what its warm cases could be
    fixed_iterations: int | None = None  # each batch has so many; None: calibrated
    batches_together: int = 1  # where iterations are fixed: see `sampling.Subject`

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        """Who sends to whom; empty where it uses no channel."""
        return ()

    @classmethod
    def ack_links(cls, ranks: int) -> tuple[Link, ...]:
        """Who acknowledges to whom; empty where nothing is acknowledged."""
        return ()

    @classmethod
    def region_bytes(cls, case: Case) -> int:
        """How much of a region's memory it wants for itself."""
        return 0

    @classmethod
    def channel_bytes(cls, case: Case, channel: type[Channel]) -> int:
        """The size of the messages that the channel carries for this case."""
        return case.message_bytes or 8

    @classmethod
    def default_window(cls, message_bytes: int) -> int | None:
        """Messages between two acknowledgements; None where there is no window."""
        return None

    @classmethod
    def fits(cls, case: Case) -> bool:
        """Is there such a combination of its axes at all?"""
        return True

    @classmethod
    def probe(cls, case: Case) -> Unavailable | None:
        """Why this machine can't measure the case; None when nothing is known against it."""
        return None

    @classmethod
    def fixture(cls, case: Case) -> FixtureSpec | None:
        """The file that it works on, made once a run; None where it wants none."""
        return None

    @classmethod
    def operations(cls, case: Case) -> int:
        """How many operations one iteration is."""
        return 1

    @classmethod
    def bytes_per_operation(cls, case: Case) -> int:
        """Payload bytes that one operation moves."""
        return case.message_bytes or 0

    @abstractmethod
    def __init__(self, context: Context) -> None:
        """Collective: every rank opens its endpoints and prepares its buffers."""

    @abstractmethod
    def validate(self) -> None:
        """Collective and untimed: prove that messages cross, whole and in order.

        Raises:
            ValidationFailed: with the rank, the sequence number and what was wrong.
        """

    def before_batch(self, iterations: int) -> None:  # noqa: B027 (most have nothing to do)
        """Collective and untimed: bring about the state that the next batch begins with."""

    @abstractmethod
    def batch(self, iterations: int) -> int:
        """Collective: run the loop, and give the nanoseconds that it took in this rank.

        Raises:
            ValidationFailed: a sequence number that the loop checked was not the next one.
        """

    def histogram_batch(self, iterations: int, histogram: Histogram) -> None:
        """Collective: the loop again, with each operation's nanoseconds put into the histogram."""
        raise TypeError(f"{self.name} has no percentiles")

    def counters(self) -> dict[str, float]:
        """What it counted in this rank over all batches; summed over ranks and groups."""
        return {}

    def evidence(self) -> dict[str, Any]:
        """What this rank saw that a reader of the figure should know."""
        return {}

    def figures(self) -> dict[str, float]:
        """What else it measured in this rank, see `Result.figures`; rank 0's are kept."""
        return {}

    def flags(self) -> list[Flag]:
        """What the figure must be read with."""
        return []

    def close(self) -> None:  # noqa: B027 (most have nothing to release)
        """Release endpoints and buffers; idempotent."""


WORKLOADS: Registry[Workload] = Registry(
    "workload",
    {
        "ping_pong": "shmbench.workloads.ping_pong:PingPong",
        "stream": "shmbench.workloads.windows:Stream",
        "bidirectional": "shmbench.workloads.bidirectional:Bidirectional",
        "fan_out": "shmbench.workloads.windows:FanOut",
        "fan_in": "shmbench.workloads.windows:FanIn",
        "multi_pair": "shmbench.workloads.windows:MultiPair",
        "barrier": "shmbench.workloads.barrier:Barrier",
        "collective_barrier": "shmbench.workloads.collectives:CollectiveBarrier",
        "bcast": "shmbench.workloads.collectives:Bcast",
        "allreduce": "shmbench.workloads.collectives:Allreduce",
        "allgather": "shmbench.workloads.collectives:Allgather",
        "alltoall": "shmbench.workloads.collectives:Alltoall",
        "overlap": "shmbench.workloads.overlap:Overlap",
        "collective_overlap": "shmbench.workloads.overlap:CollectiveOverlap",
        "one_sided": "shmbench.workloads.one_sided:OneSided",
        "one_sided_stream": "shmbench.workloads.one_sided:OneSidedStream",
        "open_region": "shmbench.workloads.open_region:OpenRegion",
        "core_to_core": "shmbench.workloads.core_to_core:CoreToCore",
        "contention": "shmbench.workloads.contention:Contention",
        "memcpy": "shmbench.workloads.memcpy:Memcpy",
        "scan": "shmbench.workloads.reads:Scan",
        "reverse": "shmbench.workloads.reads:Reverse",
        "strided": "shmbench.workloads.reads:Strided",
        "streams": "shmbench.workloads.reads:Streams",
        "random_read": "shmbench.workloads.reads:RandomRead",
        "zipf": "shmbench.workloads.reads:Zipf",
        "first_touch": "shmbench.workloads.first_touch:FirstTouch",
        "read_vs_mmap": "shmbench.workloads.read_vs_mmap:ReadVsMmap",
        "map_unmap": "shmbench.workloads.map_unmap:MapUnmap",
        "flush": "shmbench.workloads.flush:Flush",
        "fork_cost": "shmbench.workloads.fork_cost:ForkCost",
        "shootdown": "shmbench.workloads.shootdown:Shootdown",
        "trace": "shmbench.workloads.reads:Trace",
        "reopen": "shmbench.workloads.reopen:Reopen",
        "over_memory": "shmbench.workloads.over_memory:OverMemory",
        "one_ahead": "shmbench.workloads.one_ahead:OneAhead",
        "device": "shmbench.workloads.device:Device",
    },
)
