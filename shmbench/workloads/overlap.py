"""Overlap: how much of a communication is hidden behind a computation that goes on meanwhile.

Each batch has three loops, one after the other: the communication alone, a computation alone that
takes as long, and both, the communication begun before the computation and completed after it. The
headline is the time of both together; the share of the communication that is hidden is, as
IMB-NBC has it, (alone + computation - both) / the shorter of the first two, and OSU's non-blocking
collectives say the same where these are equally long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from time import monotonic_ns
from typing import Any

from msgspec import structs

from shmbench.cases import Case
from shmbench.channels import CHANNELS, Link
from shmbench.group import Group
from shmbench.native import loops
from shmbench.workloads import WORKLOADS, Context, Workload
from shmbench.workloads.collectives import Collective
from shmbench.workloads.messages import MessageWorkload

_PROBES = 5
_PROBE_NS = 500_000
_PROBE_STEPS = 200_000


class Overlapped:
    """The three loops over a communication of this rank's.

    Args:
        begin: starts it.
        finish: waits until it is done.
    """

    def __init__(self, group: Group, begin: Callable[[], Any], finish: Callable[[], Any]) -> None:
        self._group = group
        self._begin, self._finish = begin, finish
        self._steps = 0
        self._times: list[tuple[float, float, float]] = []  # alone, computation, both; ns each

    def calibrate(self) -> None:
        """Collective: choose a computation that takes as long as the communication alone."""
        iterations = 1
        while True:
            alone_ns = median(self._slowest(self._alone(iterations)) for _ in range(_PROBES))
            if alone_ns >= _PROBE_NS:
                break
            iterations *= 4
        start = monotonic_ns()
        loops.compute(_PROBE_STEPS)
        step_ns = self._slowest(monotonic_ns() - start) / _PROBE_STEPS
        self._steps = max(1, round(alone_ns / iterations / step_ns))

    def _slowest(self, elapsed_ns: int) -> int:
        times = self._group.allgather(elapsed_ns.to_bytes(8, "little"))
        return max(int.from_bytes(each, "little") for each in times)

    def _alone(self, iterations: int) -> int:
        begin, finish = self._begin, self._finish
        self._group.barrier()
        start = monotonic_ns()
        for _ in range(iterations):
            begin()
            finish()
        return monotonic_ns() - start

    def _computation(self, iterations: int) -> int:
        compute, steps = loops.compute, self._steps
        start = monotonic_ns()
        for _ in range(iterations):
            compute(steps)
        return monotonic_ns() - start

    def _both(self, iterations: int) -> int:
        begin, finish, compute, steps = self._begin, self._finish, loops.compute, self._steps
        self._group.barrier()
        start = monotonic_ns()
        for _ in range(iterations):
            begin()
            compute(steps)
            finish()
        return monotonic_ns() - start

    def batch(self, iterations: int) -> int:
        """Collective: all three; the nanoseconds of both together."""
        alone, computation = self._alone(iterations), self._computation(iterations)
        both = self._both(iterations)
        self._times.append((alone / iterations, computation / iterations, both / iterations))
        return both

    def figures(self) -> dict[str, float]:
        """What each loop took alone, and the share of the communication that was hidden."""
        alone, computation, _ = zip(*self._times, strict=True)
        return {
            "alone_s": median(alone) * 1e-9,
            "computation_s": median(computation) * 1e-9,
            "hidden_share": median(hidden_share(*times) for times in self._times),
        }


def hidden_share(alone: float, computation: float, both: float) -> float:
    """0 (nothing) to 1 (all) of the communication is hidden behind the computation."""
    return min(1.0, max(0.0, (alone + computation - both) / min(alone, computation)))


class Overlap(MessageWorkload):
    """Both ranks begin to receive and to send, compute, and complete."""

    name = "overlap"
    summary = "an exchange of messages behind a computation: which share is hidden"
    operation = "exchange and computation"
    drivers = ("python",)
    sends_at_once = True
    has_limit = False
    across_nodes = True
    max_ranks = 2

    @classmethod
    def fits(cls, case: Case) -> bool:
        return CHANNELS.get(f"{case.driver}/{case.channel}").posts_receptions

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        return (Link(0, (1,)), Link(1, (0,)))

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        out, back = self.outs[self.rank], self.ins[1 - self.rank]
        receive, message, buffer = self.post_recv(back), self.message, self.buffer

        def begin() -> None:
            receive(buffer)
            out.post(message)

        def finish() -> None:
            out.complete()
            back.complete()

        self._loops = Overlapped(context.group, begin, finish)

    def validate(self) -> None:
        super().validate()
        self._loops.calibrate()

    def native_batch(self, iterations: int) -> int:
        raise TypeError("overlap has no native loop")

    def python_batch(self, iterations: int) -> int:
        return self._loops.batch(iterations)

    def figures(self) -> dict[str, float]:
        return self._loops.figures()


class CollectiveOverlap(Workload):
    """All ranks begin a non-blocking collective of MPI's, compute, and wait for it."""

    name = "collective_overlap"
    summary = "a non-blocking collective behind a computation: which share is hidden"
    operation = "collective and computation"
    drivers = ("python",)
    variants = ("bcast", "allreduce", "allgather", "alltoall")
    uses_channel = False
    uses_region = True  # where the ranks meet before each batch
    timing_rank = None

    @classmethod
    def fits(cls, case: Case) -> bool:
        return case.launcher == "mpi" and _blocking(case).fits(_as_blocking(case))

    @classmethod
    def region_bytes(cls, case: Case) -> int:
        return _blocking(case).region_bytes(_as_blocking(case))

    def __init__(self, context: Context) -> None:
        inner = replace(context, case=_as_blocking(context.case))
        self._collective = _blocking(context.case)(inner)
        start = self._collective.begin_of_mpi(getattr(context.group, "comm", None))
        requests: list[Any] = []
        self._loops = Overlapped(
            context.group, lambda: requests.append(start()), lambda: requests.pop().Wait()
        )

    def validate(self) -> None:
        self._collective.validate()
        self._loops.calibrate()

    def batch(self, iterations: int) -> int:
        self._collective.stamp()
        elapsed_ns = self._loops.batch(iterations)
        self._collective.check()
        return elapsed_ns

    def figures(self) -> dict[str, float]:
        return self._loops.figures()


def _blocking(case: Case) -> type[Collective]:
    """The workload of the blocking collective that the variant names."""
    found = WORKLOADS.get(case.variant or "")
    assert issubclass(found, Collective)
    return found


def _as_blocking(case: Case) -> Case:
    """The case as that workload wants it."""
    return structs.replace(case, variant="mpi")
