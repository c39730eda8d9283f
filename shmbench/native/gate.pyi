from collections.abc import Callable
from typing import Any

READY: int
ASK: int
OUTSIDE: int
SHRUNK: int

class Gate:
    address: int
    length: int
    exact: bool
    may_begin_alone: bool
    alone: bool
    asking: bool
    map_strides: bool
    waking: int
    waking_left: int
    slow_ns: float
    run_ns: float
    userfaultfd: int
    accesses: int
    misses: int
    bytes_populated: int
    error: int
    def __init__(
        self,
        address: int,
        length: int,
        *,
        fd: int = -1,
        offset: int = 0,
        piece_bytes: int = 32 << 20,
        memory: memoryview | None = None,
        owner: Callable[[], Any] | None = None,
    ) -> None: ...
    def enter(self, start: int, count: int) -> int: ...
    def read(self, offset: int, length: int) -> memoryview: ...
    def retire(self) -> None: ...
    def populate(self, offset: int, length: int, write: bool = False, threads: int = 1) -> int: ...
    def there(self, offset: int, length: int) -> bool: ...
    def quiet(self, start: int, end: int, sure: bool = False) -> None: ...
    def flush(self, offset: int, length: int) -> int: ...
    def carry_on(self, before: Gate) -> None: ...
    def doze(self, contiguous: int = 0) -> None: ...
    def expect_reads(self) -> None: ...
    @property
    def all_there(self) -> bool: ...
