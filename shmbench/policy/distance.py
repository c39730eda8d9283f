"""How far ahead of its consumer a prefetch of a known order should be."""

from __future__ import annotations

# Past a depth of some hundred reads no device gets faster.
MOST_ITEMS = 1024


class Distance:
    """How many items to announce ahead: a law without a clock, without memory, without I/O.

    At each step the consumer tells two things: was the item that it needs now in memory already,
    and was the item half the distance ahead of it. Not there: the consumer would wait, so the
    distance doubles. Both there, `patience` steps in a row: half the distance would have done, so
    it shrinks by a quarter. Between the two the distance is right and stays.

    It begins with `first`, so that the consumer gets its first item soon, and doubles up to
    `least`: with fewer items than that at a time, asking for them costs more than it saves.

    Args:
        first: the distance to begin with, in items; at most `least`.
        least, most: limits of the distance.
        patience: steps in a row that must look too early before the distance shrinks.

    Raises:
        ValueError: these are below 1, or in the wrong order.
    """

    def __init__(
        self, *, first: int = 16, least: int = 128, most: int = MOST_ITEMS, patience: int = 8
    ) -> None:
        if not 1 <= first <= least <= most or patience < 1:
            raise ValueError(f"no such distance: {first}, {least} to {most}, patience {patience}")
        self.least = least
        self.most = most
        self.patience = patience
        self.items = first
        self._early = 0

    def step(self, *, here: bool, halfway: bool) -> int:
        """Learn whether the next item and the halfway one are in memory; give the distance."""
        if not here or self.items < self.least:
            self.items = min(2 * self.items, self.most)
            self._early = 0
        elif not halfway:
            self._early = 0
        else:
            self._early += 1
            if self._early == self.patience:
                self.items = max(self.items - self.items // 4, self.least)
                self._early = 0
        return self.items
