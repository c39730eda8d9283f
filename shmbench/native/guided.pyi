from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shmbench.native.reach import Reach

class Announced(NamedTuple):
    asked: int
    bytes: int
    in_memory_since: int
    errno: int

class Slices:
    def __init__(
        self,
        memory: memoryview,
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        first: int,
        behind: int,
        reach: Reach | None = None,
        lost: Callable[[int], None] | None = None,
    ) -> None: ...
    def __iter__(self) -> Iterator[memoryview]: ...
    def __next__(self) -> memoryview: ...

def first_outside(starts: NDArray[np.int64], stops: NDArray[np.int64], limit: int) -> int: ...
def affordable(
    starts: NDArray[np.int64], stops: NDArray[np.int64], most: int, budget: int
) -> int: ...

class Announcer:
    def __init__(self, *, look: bool = True) -> None: ...
    def announce(
        self,
        address: int,
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        first: int,
        behind: int,
        *,
        beside: bool = True,
    ) -> None: ...
    def told(self) -> Announced: ...
    def close(self) -> None: ...

def populate(
    address: int,
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    first: int,
    behind: int,
) -> tuple[int, int]: ...
def in_sequence(starts: NDArray[np.int64], stops: NDArray[np.int64], behind: int) -> bool: ...
def in_memory(
    address: int,
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    first: int,
    behind: int,
    step: int = 1,
) -> bool: ...
