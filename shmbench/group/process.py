"""A group of forked processes: made fresh for each set of samples, and never outlived.

The caller (the leader) forks the ranks, waits for what they report, and kills and reaps all of them
when one fails. A rank whose leader dies is killed by the kernel (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import selectors
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from shmbench import errors
from shmbench.errors import CaseTimeout, PeerFailed, ShmbenchError
from shmbench.native import sync
from shmbench.native.process import set_parent_death_signal

_ITEM_BYTES_MAX = 64 * 1024
_HEADER_BYTES = 4096  # the barrier's words, and the scratch
_SCRATCH_OFFSET = 1024
_SLOT_BYTES = _ITEM_BYTES_MAX + 8
_GRACE_S = 0.1  # how long to listen for the cause after the first rank failed


def group_bytes(size: int) -> int:
    """How much shared memory a group of `size` ranks meets in."""
    return _HEADER_BYTES + size * _SLOT_BYTES


class ProcessGroup:
    """One rank's view of its group; see shmbench.group.Group.

    Args:
        memory: shared by the ranks, `group_bytes` long, zeroed.
    """

    def __init__(self, rank: int, size: int, memory: mmap.mmap | memoryview) -> None:
        self.rank = rank
        self.size = size
        self._memory = memoryview(memory)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    @property
    def scratch(self) -> int:
        """See Group.scratch."""
        return self._address + _SCRATCH_OFFSET

    def barrier(self) -> None:
        """Returns in each rank when all ranks have called it."""
        sync.barrier(self._address, self.size)

    def allgather(self, item: bytes) -> list[bytes]:
        """Every rank's item, in the order of the ranks.

        Raises:
            ValueError: an item of more than 64 KiB.
        """
        if len(item) > _ITEM_BYTES_MAX:
            raise ValueError(f"allgather carries {_ITEM_BYTES_MAX} bytes, not {len(item)}")
        offset = _HEADER_BYTES + self.rank * _SLOT_BYTES
        struct.pack_into("<Q", self._memory, offset, len(item))
        self._memory[offset + 8 : offset + 8 + len(item)] = item
        self.barrier()
        items = [self._read_slot(rank) for rank in range(self.size)]
        self.barrier()
        return items

    def _read_slot(self, rank: int) -> bytes:
        offset = _HEADER_BYTES + rank * _SLOT_BYTES
        (length,) = struct.unpack_from("<Q", self._memory, offset)
        return bytes(self._memory[offset + 8 : offset + 8 + length])


class _Raised(msgspec.Struct):
    """What a rank says when its body raised."""

    type: str
    message: str
    remedy: str | None


@dataclass
class _Rank:
    """The leader's view of one rank."""

    number: int
    pid: int
    pipe: int
    received: bytearray = field(default_factory=bytearray)
    status: int | None = None  # what waitpid gave

    def failure(self) -> ShmbenchError | None:
        """How this rank failed, once it has ended; None when it reported."""
        assert self.status is not None
        if os.WIFSIGNALED(self.status):
            name = signal.Signals(os.WTERMSIG(self.status)).name
            return PeerFailed(f"rank {self.number} was killed by {name}")
        if self.received[:1] == b"E":
            raised = msgspec.msgpack.decode(self.received[1:], type=_Raised)
            known = getattr(errors, raised.type, None)
            if known is not None:
                error: ShmbenchError = known(raised.message, raised.remedy)
                return error
            return PeerFailed(f"rank {self.number} raised {raised.type}: {raised.message}")
        if self.received[:1] != b"R":
            code = os.WEXITSTATUS(self.status)
            return PeerFailed(f"rank {self.number} exited with status {code}")
        return None


def _run_child(
    rank: int, size: int, memory: mmap.mmap, pipe: int, body: Callable[[ProcessGroup], bytes]
) -> None:
    """Everything that a rank does, from the fork to its exit."""
    try:
        answer = b"R" + body(ProcessGroup(rank, size, memory))
    except ShmbenchError as error:
        raised = _Raised(type(error).__name__, error.message, error.remedy)
        answer = b"E" + msgspec.msgpack.encode(raised)
    except BaseException as error:
        answer = b"E" + msgspec.msgpack.encode(_Raised(type(error).__name__, str(error), None))
    view = memoryview(answer)
    while view:
        view = view[os.write(pipe, view) :]


def _fork(
    ranks: list[_Rank], size: int, memory: mmap.mmap, body: Callable[[ProcessGroup], bytes]
) -> None:
    """Fork the ranks, and note each in `ranks` as soon as it is there."""
    leader = os.getpid()
    for number in range(size):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                set_parent_death_signal(signal.SIGKILL)
                if os.getppid() != leader:
                    os._exit(1)  # the leader died before the signal was armed
                os.close(read_end)
                for other in ranks:
                    os.close(other.pipe)
                _run_child(number, size, memory, write_end, body)
                code = 0
            finally:
                os._exit(code)
        os.close(write_end)
        ranks.append(_Rank(number, pid, read_end))


def _read(rank: _Rank) -> bool:
    """Take what a rank wrote; True when it has ended."""
    chunk = os.read(rank.pipe, 1 << 20)
    rank.received += chunk
    if chunk:
        return False
    _, rank.status = os.waitpid(rank.pid, 0)
    return True


def _wait(ranks: list[_Rank], timeout_s: float) -> list[ShmbenchError]:
    """Listen until all have ended, or one has failed and the grace is over, or time is up."""
    deadline = time.monotonic() + timeout_s
    failures: list[ShmbenchError] = []
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.pipe, selectors.EVENT_READ, rank)
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            for key, _ in selector.select(remaining):
                if _read(key.data):
                    selector.unregister(key.fileobj)
                    failure = key.data.failure()
                    if failure is not None:
                        if not failures:
                            deadline = min(deadline, time.monotonic() + _GRACE_S)
                        failures.append(failure)
        if not failures and selector.get_map():
            silent = ", ".join(str(key.data.number) for key in selector.get_map().values())
            failures.append(
                CaseTimeout(
                    f"no answer from rank {silent} within {timeout_s:g} s",
                    "a rank hangs, or the case needs a longer --timeout",
                )
            )
    return failures


def _cause(failures: list[ShmbenchError]) -> ShmbenchError:
    """The failure to name: a rank that was killed makes others fail with a broken pipe."""

    def order(error: ShmbenchError) -> int:
        if not isinstance(error, PeerFailed):
            return 1
        if "killed by" in error.message:
            return 0
        broken = ("BrokenPipeError", "ConnectionResetError", "EOFError", "(EPIPE)", "(ECONNRESET)")
        return 3 if any(word in error.message for word in broken) else 2

    return min(failures, key=order)


def run_ranks(size: int, body: Callable[[ProcessGroup], bytes], *, timeout_s: float) -> list[bytes]:
    """Fork `size` ranks of this process, run `body` in each, and give what each returned.

    Args:
        size: how many ranks.
        body: runs in the forked rank; what it returns reaches the caller through a pipe.
        timeout_s: seconds until all must have reported.

    Raises:
        PeerFailed: a rank was killed, exited or raised; all others have been killed.
        CaseTimeout: at least one rank did not report in time; all have been killed.
        ShmbenchError: an error of this package that a rank raised, as it was.
    """
    memory = mmap.mmap(-1, group_bytes(size))
    ranks: list[_Rank] = []
    try:
        _fork(ranks, size, memory, body)
        failures = _wait(ranks, timeout_s)
    finally:
        for rank in ranks:
            if rank.status is None:
                os.kill(rank.pid, signal.SIGKILL)
                os.waitpid(rank.pid, 0)
            os.close(rank.pipe)
        memory.close()
    if failures:
        raise _cause(failures)
    return [bytes(rank.received[1:]) for rank in ranks]
