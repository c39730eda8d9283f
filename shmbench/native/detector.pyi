from collections.abc import Iterable
from typing import NamedTuple

class Ahead(NamedTuple):
    first: int
    step: int
    steps: int
    pages: int

class Detector:
    read_ahead_off: bool
    streams: list[tuple[int, int]]
    def __init__(
        self, pages: int, *, least_step: int = 8, most_ahead: int = 512, patience: int = 12
    ) -> None: ...
    def step(self, touched: Iterable[int]) -> list[Ahead]: ...
    def rest(self) -> None: ...

class FaultDetector:
    streams: list[tuple[int, int]]
    windows: int
    def __init__(
        self,
        pages: int,
        *,
        least_step: int = 8,
        most_ahead: int = 512,
        patience: int = 12,
        most_window: int = 1024,
    ) -> None: ...
    def fault(self, page: int) -> list[Ahead]: ...
