from collections.abc import Sequence
from typing import Any, TypeAlias

from shmbench.native.histogram import Histogram
from shmbench.native.ring import Layout

# A native.endpoint.Endpoint, which Cython checks at the call: workloads know endpoints by protocol.
Endpoint: TypeAlias = Any

def ping_pong(
    out: Endpoint,
    back: Endpoint,
    message: memoryview,
    buffer: memoryview,
    iterations: int,
    initiator: bool,
    check: bool = True,
    histogram: Histogram | None = None,
) -> int: ...
def send_windows(
    out: Endpoint,
    acks: Sequence[Endpoint],
    message: memoryview,
    iterations: int,
    window: int,
    check: bool = True,
) -> int: ...
def receive_windows(
    sources: Sequence[Endpoint],
    ack_out: Endpoint,
    buffer: memoryview,
    iterations: int,
    window: int,
    check: bool = True,
) -> int: ...
def exchange(
    out: Endpoint,
    back: Endpoint,
    message: memoryview,
    buffer: memoryview,
    iterations: int,
    pieces: int,
    check: bool = True,
) -> int: ...
def disseminate(
    outs: Sequence[Endpoint], backs: Sequence[Endpoint], iterations: int, check: bool = True
) -> int: ...
def hand_over(mine: int, theirs: int, iterations: int, initiator: bool) -> int: ...
def atomic_adds(address: int, iterations: int) -> int: ...
def copy_whole(to: int, source: int, n: int, iterations: int) -> int: ...
def copy_through(
    message: int,
    n: int,
    slots: int,
    layout: Layout,
    iterations: int,
    into_slots: bool,
    finished: int,
    ranks_finished: int,
) -> int: ...
def compute(steps: int) -> int: ...
