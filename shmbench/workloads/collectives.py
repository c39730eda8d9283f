"""Collectives in two ways: MPI's own, and by hand through a shared region.

By hand: each rank copies in, all meet in our barrier, each copies out or reduces its own slice.
Vectors are of float64; a message is one rank's vector (of alltoall: what one rank has for another).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from shmbench.cases import Case
from shmbench.errors import ValidationFailed
from shmbench.native import sync
from shmbench.workloads import Context, Workload

_ITEM_BYTES = 8
_LINE_BYTES = 64
_SPINS = 20_000  # looks before a rank sleeps in the barrier, where each has a CPU

Vector = npt.NDArray[np.float64]


def _items(case: Case) -> int:
    """Items of a message; at least one."""
    return max(1, (case.message_bytes or 0) // _ITEM_BYTES)


class Collective(Workload):
    """Base of all: the two loops, and the proof that each rank got what it should.

    Attributes:
        ranks, rank, n: the group, and the items of a message.
        sent: what this rank gives. got: where it wants the outcome.
        shared: the region's items, for the variant "shared".
    """

    operation = "collective"
    drivers = ("python",)
    variants = ("mpi", "shared")
    uses_channel = False
    uses_region = True
    timing_rank = None
    vectors_sent: ClassVar[int | None] = 1  # by each rank, in messages; None: one for each rank
    vectors_got: ClassVar[int | None] = 1

    @classmethod
    def fits(cls, case: Case) -> bool:
        return case.variant == "shared" or case.launcher == "mpi"

    @classmethod
    def region_bytes(cls, case: Case) -> int:
        sent = cls.vectors_sent or case.ranks
        # Two areas that take turns, for what all ranks send, and one for an outcome.
        vectors = 2 * case.ranks * sent + 1
        return _LINE_BYTES + vectors * _items(case) * _ITEM_BYTES

    def __init__(self, context: Context) -> None:
        assert context.region is not None
        self.rank, self.ranks = context.group.rank, context.group.size
        self.n = _items(context.case)
        self.sent = np.zeros((self.vectors_sent or self.ranks) * self.n)
        self.got = np.zeros((self.vectors_got or self.ranks) * self.n)
        self._address = context.region.address
        self._spins = _SPINS if len(set(context.cpus)) == self.ranks else 0
        items = np.frombuffer(context.region.memory[_LINE_BYTES:], np.float64)
        areas = 2 * self.ranks * len(self.sent)
        self.areas = items[:areas].reshape(2, self.ranks, len(self.sent))
        self.outcome = items[areas : areas + self.n]
        self._turn = 0
        self._stamp = 0.0
        by_mpi = context.case.variant == "mpi"
        self._step = self.of_mpi(getattr(context.group, "comm", None)) if by_mpi else self.by_hand

    def meet(self) -> None:
        """Our barrier."""
        sync.barrier(self._address, self.ranks, self._spins)

    def area(self) -> npt.NDArray[np.float64]:
        """Where all ranks copy in, by rank. The next call gives the other area, so that one barrier
        an operation is enough: nobody writes here again before all have met once more."""
        self._turn ^= 1
        area: npt.NDArray[np.float64] = self.areas[self._turn]
        return area

    def give(self, rank: int) -> Vector:
        """What a rank sends: no two ranks, items or batches alike."""
        return np.arange(len(self.sent), dtype=np.float64) + 1e6 * rank + 1e9 * self._stamp

    @abstractmethod
    def of_mpi(self, comm: Any) -> Callable[[], object]:
        """MPI's collective from `sent` to `got`."""

    @abstractmethod
    def by_hand(self) -> None:
        """The same through the region."""

    @abstractmethod
    def wanted(self) -> Vector:
        """What `got` must be."""

    def validate(self) -> None:
        for _ in range(3):
            self.batch(1)

    def batch(self, iterations: int) -> int:
        self._stamp += 1
        self.sent[:] = self.give(self.rank)
        self.got.fill(0)
        self.meet()
        step = self._step
        start = monotonic_ns()
        for _ in range(iterations):
            step()
        elapsed = monotonic_ns() - start
        if not np.array_equal(self.got, self.wanted()):
            raise ValidationFailed(f"rank {self.rank}: {self.name} gave other values")
        return elapsed


class Bcast(Collective):
    """Rank 0's vector reaches all."""

    name = "bcast"
    summary = "one rank's message to all: MPI's, and through a shared region"

    def of_mpi(self, comm: Any) -> Callable[[], object]:
        # MPI's works in place: the root's is what it sends.
        buffer = self.sent if self.rank == 0 else self.got
        return lambda: comm.Bcast(buffer, 0)

    def by_hand(self) -> None:
        area = self.area()
        if self.rank == 0:
            area[0] = self.sent
        self.meet()
        if self.rank != 0:
            self.got[:] = area[0]

    def wanted(self) -> Vector:
        return self.give(0) if self.rank else np.zeros(self.n)


class Allgather(Collective):
    """Each rank's vector reaches all."""

    name = "allgather"
    summary = "every rank's message to all: MPI's, and through a shared region"
    vectors_got = None

    def of_mpi(self, comm: Any) -> Callable[[], object]:
        return lambda: comm.Allgather(self.sent, self.got)

    def by_hand(self) -> None:
        area = self.area()
        area[self.rank] = self.sent
        self.meet()
        self.got[:] = area.ravel()

    def wanted(self) -> Vector:
        return np.concatenate([self.give(rank) for rank in range(self.ranks)])


class Alltoall(Collective):
    """Each rank has another vector for each rank."""

    name = "alltoall"
    summary = "another message from each rank to each: MPI's, and through a shared region"
    vectors_sent = None
    vectors_got = None

    def of_mpi(self, comm: Any) -> Callable[[], object]:
        return lambda: comm.Alltoall(self.sent, self.got)

    def _mine(self) -> slice:
        return slice(self.rank * self.n, (self.rank + 1) * self.n)

    def by_hand(self) -> None:
        area = self.area()
        area[self.rank] = self.sent
        self.meet()
        self.got.reshape(self.ranks, self.n)[:] = area[:, self._mine()]

    def wanted(self) -> Vector:
        return np.concatenate([self.give(rank)[self._mine()] for rank in range(self.ranks)])


class Allreduce(Collective):
    """The sum of all vectors reaches all; by hand each rank adds a slice of it."""

    name = "allreduce"
    summary = "the sum of all ranks' messages to all: MPI's, and through a shared region"

    def of_mpi(self, comm: Any) -> Callable[[], object]:
        return lambda: comm.Allreduce(self.sent, self.got)

    def by_hand(self) -> None:
        area = self.area()
        area[self.rank] = self.sent
        self.meet()
        mine = slice(self.n * self.rank // self.ranks, self.n * (self.rank + 1) // self.ranks)
        np.add.reduce(area[:, mine], axis=0, out=self.outcome[mine])
        self.meet()
        self.got[:] = self.outcome

    def wanted(self) -> Vector:
        total: Vector = np.sum([self.give(rank) for rank in range(self.ranks)], axis=0)
        return total


class CollectiveBarrier(Collective):
    """All ranks meet; nothing is moved."""

    name = "collective_barrier"
    summary = "all ranks meet: MPI_Barrier, and our barrier in a shared region"
    operation = "barrier"
    has_sizes = False

    def of_mpi(self, comm: Any) -> Callable[[], object]:
        barrier: Callable[[], object] = comm.Barrier
        return barrier

    def by_hand(self) -> None:
        self.meet()

    def wanted(self) -> Vector:
        return np.zeros(self.n)
