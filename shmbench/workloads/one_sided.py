"""One-sided operations by themselves: rank 0 works on rank 1's memory, and rank 1 does nothing.

This is what OSU's and IMB's one-sided benchmarks measure. With `ping_pong` over the same channels a
message is handed over as well, so that its receiver knows.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Any, ClassVar, cast

import numpy as np

from shmbench.cases import Case
from shmbench.channels import CHANNELS, Link
from shmbench.errors import ValidationFailed
from shmbench.regions.pages import PrivateBuffer
from shmbench.workloads import Context, Workload

_WORD_BYTES = 8
_STREAM_WINDOW = 64


class OneSided(Workload):
    """An operation and a flush, over and over: when it returns, it is done at the peer."""

    name = "one_sided"
    summary = "put, get or an atomic on another rank's memory, and a flush: no hand-over"
    operation = "one-sided operation"
    drivers = ("python",)
    variants: ClassVar[tuple[str | None, ...]] = (
        *("put", "get", "fetch_and_op", "compare_and_swap"),
    )
    moves_bytes = True
    across_nodes = True
    has_limit = False  # a library may copy in its own way, or not at all
    max_ranks = 2

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        return (Link(0, (1,)),)

    @classmethod
    def fits(cls, case: Case) -> bool:
        if case.variant not in CHANNELS.get(f"{case.driver}/{case.channel}").one_sided:
            return False
        return case.variant in ("put", "get") or case.message_bytes == _WORD_BYTES

    @classmethod
    def operations(cls, case: Case) -> int:
        return case.window or 1

    def __init__(self, context: Context) -> None:
        assert context.channel is not None
        self._case, self.rank = context.case, context.group.rank
        channel = context.channel
        # An end of MPI's one-sided channels, see shmbench.channels.mpi_rma.
        self._end = cast("Any", channel.sender(0) if self.rank == 0 else channel.receiver(0))
        self._buffer = PrivateBuffer(context.case.message_bytes or 1, "prefault")
        self.variant = context.case.variant or ""
        self._operate = self._end.operation(self.variant) if self.rank == 0 else None
        self._batches = self._done = 0
        if self.rank == 1:
            self._end.exposed[:] = bytes(len(self._end.exposed))
        self._end.meet()

    def validate(self) -> None:
        for _ in range(2):
            self.batch(1)

    def batch(self, iterations: int) -> int:
        self._batches += 1
        window = self._case.window or 1
        self._done += iterations * window
        self._prepare()
        self._end.meet()
        elapsed = self._loop(iterations, window) if self.rank == 0 else 0
        self._end.meet()
        self._check()
        return elapsed

    def _loop(self, iterations: int, window: int) -> int:
        operate, flush, buffer = self._operate, self._end.flush, self._buffer.memory
        assert operate is not None
        start = monotonic_ns()
        if window == 1:
            for _ in range(iterations):
                operate(buffer)
                flush()
        else:
            for _ in range(iterations):
                for _ in range(window):
                    operate(buffer)
                flush()
        return monotonic_ns() - start

    def _pattern(self) -> np.ndarray:
        size = len(self._buffer.memory)
        return np.random.default_rng(self._batches).integers(0, 256, size, dtype=np.uint8)

    def _prepare(self) -> None:
        """Other bytes in each batch, where they come from."""
        source = {"put": 0, "get": 1}.get(self.variant)
        if source == self.rank:
            (self._buffer.memory if source == 0 else self._end.exposed)[:] = self._pattern().data

    def _check(self) -> None:
        target = {"put": 1, "get": 0}.get(self.variant)
        if target is not None:
            found = self._end.exposed if target == 1 else self._buffer.memory
            right = target != self.rank or np.array_equal(found, self._pattern())
        else:
            word = int.from_bytes(self._end.exposed, "little")
            right = self.rank == 0 or word == self._done
        if not right:
            raise ValidationFailed(
                f"rank {self.rank}: after {self._done} times {self.variant} the memory has other "
                "values",
                "the MPI library loses one-sided operations: please report it",
            )

    def close(self) -> None:
        self._buffer.close()


class OneSidedStream(OneSided):
    """64 operations before each flush: bandwidth."""

    name = "one_sided_stream"
    summary = "64 puts or gets on another rank's memory before each flush: bandwidth"
    variants = ("put", "get")

    @classmethod
    def default_window(cls, message_bytes: int) -> int:
        return _STREAM_WINDOW
