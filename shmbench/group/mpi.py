"""A group of MPI ranks: the ranks of one node, which meet in shared memory of ours.

MPI says who is on this node, and carries one name to all of them; then barrier and allgather go the
way of a process group, which blocks in the kernel: a rank that waits takes no CPU from those that
measure, and no library's progress is part of it.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, cast

from shmbench.errors import UsageError
from shmbench.group.process import ProcessGroup

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm, Request

_RESULTS_TAG = 1
_TURN_TAG = 2
_ACROSS_TAG = 3


def inside() -> bool:
    """Was this process started by `python -m mpi4py`, as a rank of a job?"""
    return "mpi4py.run" in sys.modules


def is_first() -> bool:
    """Is this rank 0 of the job, or no rank at all? It speaks for the others."""
    if not inside():
        return True
    from mpi4py import MPI

    return MPI.Is_finalized() or MPI.COMM_WORLD.rank == 0


def leave(code: int) -> NoReturn:
    """End this rank in peace; collective. The job's exit code is rank 0's, the others have 0.

    mpi4py makes an abort of a code that isn't 0 unless MPI is finalized. The interpreter has to end
    as usual: MPICH takes what ends by os._exit for killed, and kills the others.
    """
    from mpi4py import MPI

    if not MPI.Is_finalized():
        if MPI.COMM_WORLD.rank > 0:
            code = 0
        MPI.Finalize()
    sys.exit(code)


class MPIGroup(ProcessGroup):
    """One MPI rank's view of its group; see shmbench.group.Group.

    Attributes:
        comm: the same ranks in the same order, for what is MPI's own.
    """

    def __init__(self, comm: Intracomm, memory: memoryview, arrived: Callable[[], None]) -> None:
        super().__init__(comm.rank, comm.size, memory)
        self.comm = comm
        self._arrived = arrived

    def barrier(self) -> None:
        """See Group.barrier; the watchdog sees who has come this far."""
        self._arrived()
        super().barrier()


class AcrossGroup:
    """One MPI rank's view of a group whose ranks are on two nodes, so that it meets by MPI.

    Attributes:
        comm: the ranks.
        scratch: 0, as they share no memory.
    """

    scratch = 0

    def __init__(self, comm: Intracomm, arrived: Callable[[], None]) -> None:
        self.rank, self.size, self.comm = comm.rank, comm.size, comm
        self._arrived = arrived

    def barrier(self) -> None:
        """See Group.barrier."""
        self._arrived()
        self.comm.Barrier()

    def allgather(self, item: bytes) -> list[bytes]:
        """See Group.allgather."""
        self._arrived()
        return self.comm.allgather(item)


class Node:
    """The job's ranks on this node, seen from one of them.

    Attributes:
        rank, size: within the node.
        world_rank, world_size: within the job.
        number, count: which of the job's nodes this is, and how many there are.
        sizes: how many ranks each node has.
    """

    def __init__(self) -> None:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        split = world.Split_type(MPI.COMM_TYPE_SHARED, world.rank)
        self._comm = cast("Intracomm", split)
        self.rank, self.size = self._comm.rank, self._comm.size
        self.world_rank, self.world_size = world.rank, world.size
        self._leaders = world.Split(0 if self.rank == 0 else 1, world.rank)
        leader = self._comm.bcast(world.rank, 0)
        self._members: dict[int, list[int]] = {}  # by node's first rank: world ranks
        for rank, its_leader in enumerate(world.allgather(leader)):
            self._members.setdefault(its_leader, []).append(rank)
        leaders = sorted(self._members)
        self.number, self.count = leaders.index(leader), len(leaders)
        self.sizes = [len(self._members[each]) for each in leaders]
        self._telling: Request | None = None
        self._heard: dict[int, bytes] = {}
        self._final = 0
        self._comms: dict[int, Intracomm] = {self.size: self._comm}
        self._across: dict[tuple[int, int, int], Intracomm] = {}

    def allgather(self, item: Any) -> list[Any]:
        """Collective over the node, through MPI."""
        return self._comm.allgather(item)

    def group(self, ranks: int, memory: memoryview, arrived: Callable[[], None]) -> MPIGroup:
        """Collective over the node's first ranks: they as a group, which meets in `memory`.

        Args:
            arrived: called before each barrier.
        """
        if ranks not in self._comms:
            chosen = self._comm.group.Incl(range(ranks))
            self._comms[ranks] = self._comm.Create_group(chosen)
        return MPIGroup(self._comms[ranks], memory, arrived)

    def across(
        self, nodes: tuple[int, int], of_each: int, arrived: Callable[[], None]
    ) -> AcrossGroup:
        """Collective over the first ranks of two nodes: as a group, those of one node first.

        Args:
            nodes: their numbers.
            of_each: how many ranks of each.
            arrived: called before each barrier.
        """
        from mpi4py import MPI

        key = (*nodes, of_each)
        if key not in self._across:
            by_number = [self._members[each] for each in sorted(self._members)]
            chosen = [rank for number in nodes for rank in by_number[number][:of_each]]
            world = MPI.COMM_WORLD
            self._across[key] = world.Create_group(world.group.Incl(chosen))
        return AcrossGroup(self._across[key], arrived)

    # What follows is for rank 0 of each node.

    def of_all_nodes(self, item: Any) -> list[Any]:
        """Collective: every node's item, in their order."""
        return self._leaders.allgather(item)

    def post(self, number: int, item: bytes) -> None:
        """Hand something to another node, which fetches it."""
        self._leaders.send(item, number, _ACROSS_TAG)

    def fetch(self, number: int) -> bytes:
        """What another node posts next."""
        item: bytes = self._leaders.recv(None, number, _ACROSS_TAG)
        return item

    def swap(self, number: int, item: bytes) -> bytes:
        """Give another node something, and take what it gives at the same time."""
        theirs: bytes = self._leaders.sendrecv(item, number, _ACROSS_TAG, None, number, _ACROSS_TAG)
        return theirs

    def tell_first(self, results: bytes, *, last: bool) -> None:
        """Hand this node's results to the first node; those of before may still be under way."""
        if self._telling is not None:
            if last:
                self._telling.wait()
            elif not self._telling.test()[0]:
                return  # the next ones have these in them
        self._telling = self._leaders.isend((last, results), 0, _RESULTS_TAG)
        if last:
            self._telling.wait()

    def hear(self, *, last: bool) -> dict[int, bytes]:
        """In the first node: by node, the newest results that it told.

        Args:
            last: wait for the final ones of each.
        """
        from mpi4py import MPI

        status = MPI.Status()
        while (last and self._final < self.count - 1) or self._leaders.iprobe(
            MPI.ANY_SOURCE, _RESULTS_TAG
        ):
            final, results = self._leaders.recv(None, MPI.ANY_SOURCE, _RESULTS_TAG, status)
            self._heard[status.source] = results
            self._final += final
        return self._heard

    def await_turn(self) -> None:
        """Wait until the node before this one has passed the turn on."""
        if self.number > 0:
            self._leaders.recv(None, self.number - 1, _TURN_TAG)

    def pass_turn(self) -> None:
        """Let the next node begin."""
        if self.number + 1 < self.count:
            self._leaders.send(None, self.number + 1, _TURN_TAG)


def identity() -> dict[str, Any]:
    """Which MPI this rank has loaded: what mpi_probe.describe gives, and the level of threads.

    The level has its price: with `multiple`, mpi4py's default, MPI locks in each call.
    """
    from mpi4py import MPI

    from shmbench.group.mpi_probe import describe

    names = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
        MPI.THREAD_MULTIPLE: "multiple",
    }
    return {**describe(), "thread_level": names[MPI.Query_thread()]}


def check_size(started: int | None, asked_for: int | None) -> None:
    """Does the job have the ranks that were started?

    Args:
        started: how many the launcher's environment speaks of.
        asked_for: how many --ranks asks for.

    Raises:
        UsageError: mpiexec and library don't belong together, so that each rank is alone; or too
            few ranks were started.
    """
    from mpi4py import MPI

    size = MPI.COMM_WORLD.size
    wanted = max(started or 1, asked_for or 1)
    if size >= wanted:
        return
    found = identity()
    if size == 1:
        raise UsageError(
            f"{wanted} ranks were started on {platform.node()}, but each is alone in its MPI job: "
            f"mpiexec is not that of the loaded library, {found['vendor']} {found['version']} "
            f"({found['library']})",
            "take its own mpiexec, which --launcher mpi finds, or name the library that mpiexec "
            "belongs to in MPI4PY_LIBMPI",
        )
    raise UsageError(
        f"--ranks {wanted}: the MPI job has {size} ranks", f"start it with -n {wanted}"
    )
