"""Who takes part: ranks that can meet and exchange a few bytes, outside any timing.

A process group forks its ranks (`process`); MPI ranks are somebody else's processes. Regions and
channels see only this contract.
"""

from __future__ import annotations

from typing import Protocol


class Group(Protocol):
    """The ranks that take part, seen from one of them."""

    @property
    def rank(self) -> int:
        """This rank, 0 to size - 1."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    @property
    def scratch(self) -> int:
        """The address of 256 bytes that the ranks share, zero at first, for a measurement of how
        the ranks themselves are placed."""

    def barrier(self) -> None:
        """Returns in each rank when all ranks have called it."""

    def allgather(self, item: bytes) -> list[bytes]:
        """Collective: every rank's item, in the order of the ranks.

        Raises:
            ValueError: the item is larger than the group carries (64 KiB for processes).
        """


def broadcast(group: Group, item: bytes, root: int = 0) -> bytes:
    """Collective: the root's item in every rank; the others' items are not looked at."""
    return group.allgather(item if group.rank == root else b"")[root]
