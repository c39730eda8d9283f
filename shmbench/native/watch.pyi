from collections.abc import Iterable
from typing import NamedTuple

class Ahead(NamedTuple):
    first: int
    step: int
    steps: int
    pages: int

class Watched(NamedTuple):
    polls: int
    scans: int
    scan_ns: int
    touched: int
    recognised: int
    explained: int
    announced: int
    refused: int
    errno: int
    switches: int

class Detector:
    read_ahead_off: bool
    streams: list[tuple[int, int]]
    def __init__(
        self, pages: int, *, least_step: int = 8, most_ahead: int = 512, patience: int = 12
    ) -> None: ...
    def step(self, touched: Iterable[int]) -> list[Ahead]: ...
    def rest(self) -> None: ...

class Thread:
    running: bool
    def __init__(
        self,
        address: int,
        length: int,
        *,
        least_ns: int,
        most_ns: int,
        advice: int,
        least_step: int,
        most_ahead: int,
        patience: int,
    ) -> None: ...
    def start(self, *, scan: bool = True) -> None: ...
    def stop(self) -> None: ...
    def stats(self) -> Watched: ...
