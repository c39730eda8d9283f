"""Collectives in two ways: MPI's own, and by hand through a shared region.

By hand: each rank copies in, all meet in our barrier, each copies out or reduces its own slice.
Long messages go in blocks, through two areas that stay in the cache: while one is filled, the other
is emptied, and one barrier a block is enough.
Vectors are of float64, or of smaller numbers where a message is no multiple of 8 bytes; a message
is one rank's vector (of alltoall: what one rank has for another).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, ClassVar

import numpy as np

from shmbench.cases import Case
from shmbench.errors import ValidationFailed
from shmbench.native import sync
from shmbench.workloads import Context, Workload
from shmbench.workloads.blocks import BLOCK_BYTES, Block, Copies, Vector

_LINE_BYTES = 64
_SPINS = 20_000  # looks before a rank sleeps in the barrier, where each has a CPU


def _numbers(case: Case) -> np.dtype[Any]:
    """What a message consists of: the largest numbers that fill it."""
    size = case.message_bytes or 8
    return np.dtype(np.float64 if size % 8 == 0 else np.float32 if size % 4 == 0 else np.uint8)


class Collective(Workload):
    """Base of all: the two loops, and the proof that each rank got what it should.

    Attributes:
        ranks, rank, n: the group, and the items of a message.
        sent: what this rank gives. got: where it wants the outcome.
    """

    operation = "collective"
    drivers = ("python",)
    variants = ("mpi", "shared")
    uses_channel = False
    uses_region = True
    timing_rank = None
    vectors_sent: ClassVar[int | None] = 1  # by each rank, in messages; None: one for each rank
    vectors_got: ClassVar[int | None] = 1
    mpi_call: ClassVar[str]  # of mpi4py's communicators

    @classmethod
    def fits(cls, case: Case) -> bool:
        return case.variant == "shared" or case.launcher == "mpi"

    @classmethod
    def region_bytes(cls, case: Case) -> int:
        sent = cls.vectors_sent or case.ranks
        # Two areas that take turns, each for what all ranks send, and for an outcome.
        return _LINE_BYTES + 2 * (case.ranks * sent + 1) * min(case.message_bytes or 8, BLOCK_BYTES)

    def __init__(self, context: Context) -> None:
        assert context.region is not None
        self.rank, self.ranks = context.group.rank, context.group.size
        numbers = _numbers(context.case)
        self.n = (context.case.message_bytes or 8) // numbers.itemsize
        self.sent = np.zeros((self.vectors_sent or self.ranks) * self.n, numbers)
        self.got = np.zeros((self.vectors_got or self.ranks) * self.n, numbers)
        self._address = context.region.address
        self._spins = _SPINS if len(set(context.cpus)) == self.ranks else 0
        self._blocks = self._made(np.frombuffer(context.region.memory[_LINE_BYTES:], numbers))
        self._turn = 0
        self._stamp = 0
        by_mpi = context.case.variant == "mpi"
        self._step = self.of_mpi(getattr(context.group, "comm", None)) if by_mpi else self.by_hand

    def meet(self) -> None:
        """Our barrier."""
        sync.barrier(self._address, self.ranks, self._spins)

    def _made(self, items: Vector) -> tuple[list[Block], list[Block]]:
        """All blocks of a message, through the one area and through the other."""
        size = min(self.n, BLOCK_BYTES // items.itemsize)
        sent = self.vectors_sent or self.ranks
        areas = items.reshape(2, self.ranks * sent + 1, size)

        def through(area: Vector) -> list[Block]:
            return [
                self._block(slice(at, min(at + size, self.n)), area[:-1], area[-1])
                for at in range(0, self.n, size)
            ]

        return through(areas[0]), through(areas[1])

    def _block(self, part: slice, area: Vector, outcome: Vector) -> Block:
        length = part.stop - part.start
        # By rank, then by what it sends.
        slots = area.reshape(self.ranks, -1, area.shape[-1])[:, :, :length]
        mine = slice(length * self.rank // self.ranks, length * (self.rank + 1) // self.ranks)
        sent, got = self.sent.reshape(-1, self.n)[:, part], self.got.reshape(-1, self.n)[:, part]
        puts, takes = self.copies(sent, got, slots, outcome[:length])
        return Block(puts, takes, slots[:, 0, mine], outcome[mine])

    def give(self, rank: int) -> Vector:
        """What a rank sends: no two ranks, items or batches alike, where numbers are large enough.

        Sums of them are exact: small numbers go round.
        """
        values = np.arange(len(self.sent)) + 1_000_003 * rank + 1_000_000_007 * self._stamp
        if self.sent.dtype != np.float64:
            values %= 251
        return values.astype(self.sent.dtype)

    def of_mpi(self, comm: Any) -> Callable[[], object]:
        """MPI's collective from `sent` to `got`."""
        call, arguments = getattr(comm, self.mpi_call), self.mpi_arguments()
        return lambda: call(*arguments)

    def begin_of_mpi(self, comm: Any) -> Callable[[], Any]:
        """What begins it, and gives a request."""
        call, arguments = getattr(comm, f"I{self.mpi_call.lower()}"), self.mpi_arguments()
        return lambda: call(*arguments)

    def mpi_arguments(self) -> tuple[Any, ...]:
        """What MPI's call takes."""
        return (self.sent, self.got)

    def by_hand(self) -> None:
        """The same through the region.

        Nobody fills an area again before all have met once more, and so have emptied it.
        """
        before = None
        for blocks in zip(*self._blocks, strict=True):
            self._turn ^= 1
            block = blocks[self._turn]
            block.put()
            if before is not None:
                before.take()
            self.meet()
            before = block
        assert before is not None
        before.take()

    @abstractmethod
    def copies(
        self, sent: Vector, got: Vector, slots: Vector, outcome: Vector
    ) -> tuple[Copies, Copies]:
        """What this rank copies into an area, and out of it, of one block of the messages.

        Args:
            sent, got: by message of this rank's, then by item.
            slots: the area, by rank, by message of that rank's, by item.
            outcome: by item.
        """

    @abstractmethod
    def wanted(self) -> Vector:
        """What `got` must be."""

    def validate(self) -> None:
        for _ in range(3):
            self.batch(1)

    def stamp(self) -> None:
        """Collective: have other vectors than before, and nothing in `got`."""
        self._stamp += 1
        self.sent[:] = self.give(self.rank)
        self.got.fill(0)
        self.meet()

    def check(self) -> None:
        """Did this rank get what it should? Raises ValidationFailed."""
        if not np.array_equal(self.got, self.wanted()):
            raise ValidationFailed(f"rank {self.rank}: {self.name} gave other values")

    def batch(self, iterations: int) -> int:
        self.stamp()
        step = self._step
        start = monotonic_ns()
        for _ in range(iterations):
            step()
        elapsed = monotonic_ns() - start
        self.check()
        return elapsed


class Bcast(Collective):
    """Rank 0's vector reaches all."""

    name = "bcast"
    summary = "one rank's message to all: MPI's, and through a shared region"
    mpi_call = "Bcast"

    def mpi_arguments(self) -> tuple[Any, ...]:
        # MPI's works in place: the root's is what it sends.
        return (self.sent if self.rank == 0 else self.got, 0)

    def copies(
        self, sent: Vector, got: Vector, slots: Vector, outcome: Vector
    ) -> tuple[Copies, Copies]:
        return ([(slots[0], sent)], []) if self.rank == 0 else ([], [(got, slots[0])])

    def wanted(self) -> Vector:
        return self.give(0) if self.rank else np.zeros_like(self.got)


class Allgather(Collective):
    """Each rank's vector reaches all."""

    name = "allgather"
    summary = "every rank's message to all: MPI's, and through a shared region"
    vectors_got = None
    mpi_call = "Allgather"

    def copies(
        self, sent: Vector, got: Vector, slots: Vector, outcome: Vector
    ) -> tuple[Copies, Copies]:
        return [(slots[self.rank], sent)], [(got, slots[:, 0])]

    def wanted(self) -> Vector:
        return np.concatenate([self.give(rank) for rank in range(self.ranks)])


class Alltoall(Collective):
    """Each rank has another vector for each rank."""

    name = "alltoall"
    summary = "another message from each rank to each: MPI's, and through a shared region"
    vectors_sent = None
    vectors_got = None
    mpi_call = "Alltoall"

    def copies(
        self, sent: Vector, got: Vector, slots: Vector, outcome: Vector
    ) -> tuple[Copies, Copies]:
        return [(slots[self.rank], sent)], [(got, slots[:, self.rank])]

    def wanted(self) -> Vector:
        mine = slice(self.rank * self.n, (self.rank + 1) * self.n)
        return np.concatenate([self.give(rank)[mine] for rank in range(self.ranks)])


class Allreduce(Collective):
    """The sum of all vectors reaches all; by hand each rank adds a slice of it."""

    name = "allreduce"
    summary = "the sum of all ranks' messages to all: MPI's, and through a shared region"
    mpi_call = "Allreduce"

    @classmethod
    def fits(cls, case: Case) -> bool:
        return super().fits(case) and (case.message_bytes or 8) % 4 == 0

    def copies(
        self, sent: Vector, got: Vector, slots: Vector, outcome: Vector
    ) -> tuple[Copies, Copies]:
        return [(slots[self.rank], sent)], [(got, outcome[None])]

    def by_hand(self) -> None:
        """As all, but a block is added up in the step after that in which it is copied in."""
        before = earlier = None
        for blocks in zip(*self._blocks, strict=True):
            self._turn ^= 1
            block = blocks[self._turn]
            block.put()
            if before is not None:
                before.add()
            if earlier is not None:
                earlier.take()
            self.meet()
            before, earlier = block, before
        assert before is not None
        before.add()
        if earlier is not None:
            earlier.take()
        self.meet()
        before.take()

    def wanted(self) -> Vector:
        vectors = [self.give(rank) for rank in range(self.ranks)]
        total: Vector = np.sum(vectors, axis=0, dtype=self.got.dtype)
        return total


class CollectiveBarrier(Collective):
    """All ranks meet; nothing is moved."""

    name = "collective_barrier"
    summary = "all ranks meet: MPI_Barrier, and our barrier in a shared region"
    operation = "barrier"
    has_sizes = False
    mpi_call = "Barrier"

    def mpi_arguments(self) -> tuple[Any, ...]:
        return ()

    def copies(
        self, sent: Vector, got: Vector, slots: Vector, outcome: Vector
    ) -> tuple[Copies, Copies]:
        return [], []

    def by_hand(self) -> None:
        self.meet()

    def wanted(self) -> Vector:
        return np.zeros_like(self.got)
