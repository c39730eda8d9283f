from collections.abc import Callable

READY: int
ASK: int
OUTSIDE: int
SHRUNK: int

class Gate:
    address: int
    length: int
    exact: bool
    asking: bool
    waking: int
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
        attend: Callable[[], Callable[[int, int, int], memoryview] | None] | None = None,
    ) -> None: ...
    def enter(self, start: int, count: int) -> int: ...
    def read(self, offset: int, length: int) -> memoryview: ...
    def retire(self) -> None: ...
    def populate(self, offset: int, length: int, write: bool = False) -> int: ...
    def there(self, offset: int, length: int) -> bool: ...
    def quiet(self, start: int, end: int, sure: bool = False) -> None: ...
    def flush(self, offset: int, length: int) -> int: ...
    def carry_on(self, before: Gate) -> None: ...
    def doze(self, contiguous: int = 0) -> None: ...
    def expect_reads(self) -> None: ...
    @property
    def all_there(self) -> bool: ...
