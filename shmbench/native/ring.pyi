from typing import Any

from shmbench.native.endpoint import Endpoint

FRAGMENT_BYTES_MAX: int

class Layout:
    readers: int
    fragment_bytes: int
    slots: int
    stride_bytes: int
    payload_offset: int
    slots_offset: int
    size_bytes: int
    def __init__(self, message_bytes: int, readers: int, small_slots: int = ...) -> None: ...

class RingEndpoint(Endpoint):
    def __init__(self, region: Any, address: int, layout: Layout, reader: int) -> None: ...
    @staticmethod
    def prepare(address: int, layout: Layout) -> None: ...

class SpinEnd(RingEndpoint): ...

class FutexEnd(RingEndpoint):
    looks: int

class SemaphoreEnd(RingEndpoint): ...

class EventfdEnd(RingEndpoint):
    def __init__(
        self,
        region: Any,
        address: int,
        layout: Layout,
        reader: int,
        items: list[int],
        space: list[int],
    ) -> None: ...
