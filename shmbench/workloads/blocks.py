"""Blocks: how long messages pass through a small shared area, for collectives by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 512 << 10

Vector = npt.NDArray[Any]
Copies = list[tuple[Vector, Vector]]  # to, from


@dataclass(frozen=True)
class Block:
    """A part of the messages on its way through an area: what this rank copies in, and out.

    Attributes:
        summands, total: of the slice that this rank adds up, in `allreduce`.
    """

    puts: Copies
    takes: Copies
    summands: Vector
    total: Vector

    def put(self) -> None:
        """Copy in."""
        for to, source in self.puts:
            np.copyto(to, source)

    def take(self) -> None:
        """Copy out."""
        for to, source in self.takes:
            np.copyto(to, source)

    def add(self) -> None:
        """Add up this rank's slice."""
        first, second, *others = self.summands
        np.add(first, second, self.total)
        for other in others:
            np.add(self.total, other, self.total)
