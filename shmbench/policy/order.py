"""A known order of accesses, taken piece by piece from whatever the user has it in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from shmbench.native import guided as native

Integers = NDArray[np.int64]

_FETCH_ITEMS = 1024  # taken at once, at least


class Order:
    """The items that are known and not handed out yet; index 0 is the consumer's next.

    Args:
        offsets, length: as for `guided.Follower`.
        limit: the size of the memory, in bytes.

    Attributes:
        starts, stops: of each item, in bytes.
        announced: how many of them, from the first on, have been announced.
    """

    def __init__(
        self,
        offsets: Iterable[int] | Integers,
        length: int | Sequence[int] | Integers,
        limit: int,
    ) -> None:
        self._offsets = _pieces(offsets)
        self._lengths = length if isinstance(length, int | np.integer) else _pieces(length)
        self._limit = limit
        self._taken = 0
        self.starts: Integers = np.empty(0, np.int64)
        self.stops: Integers = np.empty(0, np.int64)
        self.announced = 0

    def known(self, count: int) -> int:
        """Take from the order until `count` items are known; how many of these there are."""
        if len(self.starts) < count:
            self._take(max(count - len(self.starts), _FETCH_ITEMS))
        return min(count, len(self.starts))

    def affordable(self, budget_bytes: int, most: int) -> int:
        """How many of the next `most` known items the budget holds, in whole pages; at least 1."""
        return max(1, native.affordable(self.starts, self.stops, most, budget_bytes))

    def drop(self, count: int) -> None:
        """The next `count` items have been handed out."""
        self.starts = self.starts[count:]
        self.stops = self.stops[count:]
        self.announced = max(0, self.announced - count)

    def _take(self, count: int) -> None:
        starts = self._offsets(count)
        lengths: int | Integers = (
            self._lengths if isinstance(self._lengths, int) else self._lengths(len(starts))
        )
        if not isinstance(lengths, int) and len(lengths) < len(starts):
            raise ValueError(f"{self._taken + len(lengths)} lengths, but more offsets")
        stops = starts + lengths
        at = native.first_outside(starts, stops, self._limit)
        if at >= 0:
            raise ValueError(
                f"item {self._taken + at}, bytes {starts[at]} to {stops[at]}, "
                f"is not within {self._limit} bytes"
            )
        self._taken += len(starts)
        self.starts = np.concatenate((self.starts, starts))
        self.stops = np.concatenate((self.stops, stops))


def _pieces(numbers: Iterable[int] | Integers) -> Callable[[int], Integers]:
    # A function that gives the next n of these numbers, or as many as there are.
    if isinstance(numbers, np.ndarray):
        if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
            raise TypeError(
                f"{numbers.ndim}-d array of {numbers.dtype} where a 1-d of integers is due"
            )
        array, at = numbers, 0

        def cut(count: int) -> Integers:
            nonlocal at
            at += count
            return np.ascontiguousarray(array[at - count : at], np.int64)

        return cut
    iterator = iter(numbers)
    return lambda count: np.fromiter(islice(iterator, count), np.int64)
