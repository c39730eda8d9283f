"""memcpy: what copying a message once or twice costs when nobody waits. The limit of bandwidth."""

from __future__ import annotations

import numpy as np

from shmbench.cases import Case
from shmbench.errors import ValidationFailed
from shmbench.native import loops
from shmbench.native.ring import Layout
from shmbench.regions.pages import PrivateBuffer
from shmbench.workloads import Context, Workload

_COUNTER_BYTES = 4096  # before the slots: how often a rank was done
_FILL = 0x5A


class Memcpy(Workload):
    """Two ranks copy through a region's memory, with no protocol between them.

    one_copy: rank 1 copies a message that rank 0 wrote into its own memory.
    two_copies: rank 0 copies into the slots of a ring while rank 1 copies out of them, as fast as
    each can; the slower one counts. The slots are laid out as those of `shmbench.native.ring`.
    """

    name = "memcpy"
    summary = "memcpy between two ranks' memory, once or twice: the limit of bandwidth"
    operation = "message copied"
    drivers = ("native",)
    variants = ("one_copy", "two_copies")
    uses_channel = False
    uses_region = True
    moves_bytes = True
    max_ranks = 2
    timing_rank = None

    @classmethod
    def region_bytes(cls, case: Case) -> int:
        assert case.message_bytes is not None
        if case.variant == "one_copy":
            return case.message_bytes
        return _COUNTER_BYTES + Layout(case.message_bytes, 1).size_bytes

    def __init__(self, context: Context) -> None:
        case, region = context.case, context.region
        assert region is not None
        assert case.message_bytes is not None
        self._group = context.group
        self._rank = context.group.rank
        self._two = case.variant == "two_copies"
        self._size = case.message_bytes
        self._region = region
        self._layout = Layout(self._size, 1)
        self._buffer = PrivateBuffer(self._size, case.pages or "prefault")
        self._finished = 0
        self._written = case.pages != "untouched"
        if self._rank == 0 and self._written:
            self._buffer.memory[:] = bytes([_FILL]) * self._size
            if not self._two:
                region.memory[:] = self._buffer.memory
        self._group.barrier()

    def _copy(self, iterations: int, ranks: int) -> int:
        """Copy in this rank; with two copies, go on until `ranks` of them are done."""
        if not self._two:
            return loops.copy_whole(
                self._buffer.address, self._region.address, self._size, iterations
            )
        self._finished += ranks
        return loops.copy_through(
            self._buffer.address,
            self._size,
            self._region.address + _COUNTER_BYTES,
            self._layout,
            iterations,
            self._rank == 0,
            self._region.address,
            self._finished,
        )

    def validate(self) -> None:
        """What rank 0 wrote must reach rank 1, one after the other."""
        for rank in (0, 1):
            if self._rank == rank and (self._two or rank == 1):
                self._copy(1, 1)
            elif self._two:
                self._finished += 1
            self._group.barrier()
        if self._rank == 1 and self._written:
            copied = np.frombuffer(self._buffer.memory, np.uint8)
            if not bool((copied == _FILL).all()):
                raise ValidationFailed(f"a copy of {self._size} bytes has other bytes")

    def batch(self, iterations: int) -> int:
        if not self._two and self._rank == 0:
            return 0
        return self._copy(iterations, 2)

    def close(self) -> None:
        self._buffer.close()
