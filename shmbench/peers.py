"""The names that people know: benchmarks of OSU and of Intel (IMB), and ours that answers the same.

This table is the only one: `shmbench run mpi --like NAME`, the report and docs/mpi.md have it from
here. Sizes, warm-up and iterations are those of the OSU micro-benchmarks 7 (osu_util.h) and of
IMB 2021 (IMB_settings.h).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from shmbench.cases import Case
from shmbench.errors import UsageError
from shmbench.measure.placement import Topology
from shmbench.measure.sampling import SamplingOptions
from shmbench.registry import nearest
from shmbench.suites import Plan, Selection, plan

# What a benchmark prints beside a message's size; `shmbench.report.peers` writes it.
Columns = Literal[
    "latency", "bandwidth", "rate", "average", "overlap", "time", "times", "times_rate", "band_rate"
]
Loops = Callable[[int], tuple[int, int]]

_KIB, _MIB = 1024, 1024 * 1024
_OSU_LARGE_BYTES = 8 * _KIB  # above, OSU's programs loop less often
_OSU_WINDOW = _IMB_WINDOW = 64
_IMB_WARMUP = 2
_IMB_REPETITIONS = 1000
_IMB_VOLUME_BYTES = 40 * _MIB


def _osu(small: tuple[int, int], large: tuple[int, int]) -> Loops:
    return lambda size: large if size > _OSU_LARGE_BYTES else small


_OSU_LATENCY = _osu((100, 10_000), (10, 1000))
_OSU_BANDWIDTH = _osu((10, 100), (2, 20))
_OSU_COLLECTIVE = _osu((100, 1000), (10, 100))


def _imb(size: int) -> tuple[int, int]:
    return _IMB_WARMUP, max(1, min(_IMB_REPETITIONS, _IMB_VOLUME_BYTES // max(1, size)))


def _imb_one_sided(size: int) -> tuple[int, int]:
    return _IMB_WARMUP, 100  # its mode without aggregation


@dataclass(frozen=True)
class Peer:
    """One benchmark, and what of ours answers its question.

    Attributes:
        title: as its output has it.
        loops: by size: how many operations warm up, and how many are timed.
        window: messages under way at once.
        least, most: the sizes it goes through, powers of two; 0: it moves nothing.
        sends: how many messages of an operation its bandwidth counts.
        remark: where ours is not quite the same.
    """

    suite: Literal["OSU", "IMB"]
    name: str
    title: str
    columns: Columns
    loops: Loops
    workload: str
    channel: str | None = None
    variant: str | None = None
    window: int | None = None
    least: int = 1
    most: int = 4 * _MIB
    sends: int = 1
    remark: str = ""

    def sizes(self) -> tuple[int, ...]:
        """The sizes of its messages."""
        found, size = [], max(1, self.least)
        while size <= self.most:
            found.append(size)
            size *= 2
        return tuple(found)

    def sampling(self, case: Case) -> SamplingOptions:
        """One batch of its iterations after one of its warm-up."""
        warmup, iterations = self.loops(case.message_bytes or 0)
        return SamplingOptions(
            batches=1, retries=0, iterations=iterations, warmup_iterations=warmup
        )

    def cases(
        self,
        topology: Topology,
        ranks: int,
        sizes: tuple[int, ...] | None = None,
        placements: tuple[str, ...] | None = None,
    ) -> Plan:
        """What it measures here, in its order, without limits beside it.

        Raises:
            UsageError: a size or a number of ranks with which there is no such case.
        """
        selection = Selection(
            (self.workload,),
            (self.channel,) if self.channel else None,
            driver="python",
            regions=("mpi_mmap",) if self.workload == "open_region" else None,
            sizes=sizes or self.sizes(),
            ranks=ranks,
            placements=placements,
            launcher="mpi",
        )
        made = plan((selection,), topology, asked_for=True)
        found = [
            msgspec.structs.replace(case, window=self.window)
            for case in made.cases
            if case.workload == self.workload and case.variant == self.variant
        ]
        if not found:
            raise UsageError(
                f"--like {self.name}: there is no such case with {ranks} ranks and these sizes",
                "take an even number of --ranks, and leave --size out",
            )
        return Plan(found)


def _collective(suite: Literal["OSU", "IMB"], name: str, title: str, workload: str) -> Peer:
    osu = suite == "OSU"
    return Peer(
        suite,
        name,
        title,
        "average" if osu else "times",
        _OSU_COLLECTIVE if osu else _imb,
        workload,
        variant="mpi",
        least=4 if workload == "allreduce" else 1,
        most=_MIB if osu else 4 * _MIB,
    )


def _nonblocking(suite: Literal["OSU", "IMB"], name: str, title: str, variant: str) -> Peer:
    osu = suite == "OSU"
    return Peer(
        suite,
        name,
        title,
        "overlap",
        _OSU_COLLECTIVE if osu else _imb,
        "collective_overlap",
        variant=variant,
        least=4 if variant == "allreduce" else 1,
        most=_MIB if osu else 4 * _MIB,
    )


def _atomic(suite: Literal["OSU", "IMB"], name: str, title: str, variant: str) -> Peer:
    osu = suite == "OSU"
    return Peer(
        *(suite, name, title, "latency" if osu else "time"),
        *(_OSU_LATENCY if osu else _imb_one_sided, "one_sided", "mpi_rma_atomic", variant),
        least=8,
        most=8,
    )


_P2P, _NONBLOCKING, _PERSISTENT = "mpi_p2p", "mpi_p2p_nonblocking", "mpi_persistent"
_PUT, _GET = "mpi_rma_put", "mpi_rma_get"

_ALL = (
    Peer("OSU", "osu_latency", "OSU MPI Latency Test", "latency", _OSU_LATENCY, "ping_pong", _P2P),
    Peer(
        *("OSU", "osu_latency_persistent", "OSU MPI Latency Test Persistent", "latency"),
        *(_OSU_LATENCY, "ping_pong", _PERSISTENT),
    ),
    Peer(
        *("OSU", "osu_bw", "OSU MPI Bandwidth Test", "bandwidth", _OSU_BANDWIDTH),
        *("stream", _NONBLOCKING),
        window=_OSU_WINDOW,
    ),
    Peer(
        *("OSU", "osu_bibw", "OSU MPI Bi-Directional Bandwidth Test", "bandwidth"),
        *(_OSU_BANDWIDTH, "bidirectional", _NONBLOCKING),
        window=_OSU_WINDOW,
        sends=2,
    ),
    Peer(
        *("OSU", "osu_mbw_mr", "OSU MPI Multiple Bandwidth / Message Rate Test", "rate"),
        *(_OSU_BANDWIDTH, "multi_pair", _NONBLOCKING),
        window=_OSU_WINDOW,
    ),
    Peer(
        *("OSU", "osu_put_latency", "OSU MPI_Put Latency Test", "latency", _OSU_LATENCY),
        *("one_sided", _PUT, "put"),
    ),
    Peer(
        *("OSU", "osu_get_latency", "OSU MPI_Get latency Test", "latency", _OSU_LATENCY),
        *("one_sided", _GET, "get"),
    ),
    Peer(
        *("OSU", "osu_put_bw", "OSU MPI_Put Bandwidth Test", "bandwidth", _OSU_BANDWIDTH),
        *("one_sided_stream", _PUT, "put", _OSU_WINDOW),
        remark="all 64 puts go to the same place",
    ),
    Peer(
        *("OSU", "osu_get_bw", "OSU MPI_Get Bandwidth Test", "bandwidth", _OSU_BANDWIDTH),
        *("one_sided_stream", _GET, "get", _OSU_WINDOW),
        remark="all 64 gets come from the same place",
    ),
    _atomic("OSU", "osu_fop_latency", "OSU MPI_Fetch_and_op latency Test", "fetch_and_op"),
    _atomic("OSU", "osu_cas_latency", "OSU MPI_Compare_and_swap latency Test", "compare_and_swap"),
    _collective("OSU", "osu_bcast", "OSU MPI Broadcast Latency Test", "bcast"),
    _collective("OSU", "osu_allreduce", "OSU MPI Allreduce Latency Test", "allreduce"),
    _collective("OSU", "osu_allgather", "OSU MPI Allgather Latency Test", "allgather"),
    _collective(
        "OSU", "osu_alltoall", "OSU MPI All-to-All Personalized Exchange Latency Test", "alltoall"
    ),
    Peer(
        *("OSU", "osu_barrier", "OSU MPI Barrier Latency Test", "average", _OSU_COLLECTIVE),
        *("collective_barrier", None, "mpi"),
        least=0,
        most=0,
    ),
    _nonblocking("OSU", "osu_ibcast", "OSU MPI Non-blocking Broadcast Latency Test", "bcast"),
    _nonblocking(
        "OSU", "osu_iallreduce", "OSU MPI Non-blocking Allreduce Latency Test", "allreduce"
    ),
    _nonblocking(
        "OSU", "osu_iallgather", "OSU MPI Non-blocking Allgather Latency Test", "allgather"
    ),
    _nonblocking(
        "OSU", "osu_ialltoall", "OSU MPI Non-blocking All-to-All Latency Test", "alltoall"
    ),
    Peer("IMB", "PingPong", "PingPong", "time", _imb, "ping_pong", _P2P),
    Peer("IMB", "PingPing", "PingPing", "time", _imb, "bidirectional", _NONBLOCKING),
    Peer(
        *("IMB", "Sendrecv", "Sendrecv", "times_rate", _imb, "bidirectional", _NONBLOCKING),
        sends=2,
        remark="Isend, Irecv and a wait for both; 2 ranks",
    ),
    Peer(
        *("IMB", "Exchange", "Exchange", "times_rate", _imb, "bidirectional", _NONBLOCKING),
        window=2,
        sends=2,
        remark="2 ranks, each the other's left and right neighbour",
    ),
    Peer(
        *("IMB", "Uniband", "Uniband", "band_rate", _imb, "stream", _NONBLOCKING),
        window=_IMB_WINDOW,
    ),
    Peer(
        *("IMB", "Biband", "Biband", "band_rate", _imb, "bidirectional", _NONBLOCKING),
        window=_IMB_WINDOW,
        sends=2,
    ),
    _collective("IMB", "Bcast", "Bcast", "bcast"),
    _collective("IMB", "Allreduce", "Allreduce", "allreduce"),
    _collective("IMB", "Allgather", "Allgather", "allgather"),
    _collective("IMB", "Alltoall", "Alltoall", "alltoall"),
    Peer(
        *("IMB", "Barrier", "Barrier", "times", _imb, "collective_barrier", None, "mpi"),
        least=0,
        most=0,
    ),
    _nonblocking("IMB", "Ibcast", "Ibcast", "bcast"),
    _nonblocking("IMB", "Iallreduce", "Iallreduce", "allreduce"),
    _nonblocking("IMB", "Iallgather", "Iallgather", "allgather"),
    _nonblocking("IMB", "Ialltoall", "Ialltoall", "alltoall"),
    Peer("IMB", "Unidir_put", "Unidir_put", "time", _imb_one_sided, "one_sided", _PUT, "put"),
    Peer("IMB", "Unidir_get", "Unidir_get", "time", _imb_one_sided, "one_sided", _GET, "get"),
    _atomic("IMB", "Fetch_and_op", "Fetch_and_op", "fetch_and_op"),
    _atomic("IMB", "Compare_and_swap", "Compare_and_swap", "compare_and_swap"),
    Peer(
        *("IMB", "Window", "Window", "times", _imb, "open_region"),
        remark="over `mpi_mmap`: the memory is made and freed as well, and there is no fence",
    ),
)
PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}


def peer_named(name: str) -> Peer:
    """The benchmark of that name.

    Raises:
        UsageError: none is known; the remedy is the nearest match.
    """
    if name not in PEERS:
        raise UsageError(f"--like {name}: no such benchmark is known", nearest(name, PEERS))
    return PEERS[name]


def table() -> list[tuple[str, str, str, str, str]]:
    """Rows of suite, benchmark, workload, channel and variant, and where ours differs."""

    def carrier(peer: Peer) -> str:
        window = f"window {peer.window}" if peer.window else None
        return ", ".join(part for part in (peer.channel, peer.variant, window) if part)

    return [
        (peer.suite, peer.name, peer.workload, carrier(peer), peer.remark)
        for peer in PEERS.values()
    ]


def markdown() -> str:
    """The table as docs/mpi.md has it."""
    names = "| suite | benchmark | workload | channel, variant | what differs |\n"
    return f"{names}|---|---|---|---|---|\n" + "".join(
        f"| {suite} | {name} | `{workload}` | {carrier} | {remark} |\n"
        for suite, name, workload, carrier, remark in table()
    )
