"""What the MPI ranks of a node and their watchdog tell each other, in shared memory.

    words     one 64-bit word each, see `_Word`
    slots     by rank: how many barriers it has come to in the current trial; its failure in the
              trial: a length, then its bytes
    trial     what the ranks are to do: a length, then its bytes
    group     where the ranks of the trial meet, as a process group does

Ranks that wait block on a word with futex(2), so they take no CPU from those that measure.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import struct
from enum import IntEnum

from shmbench.group.process import group_bytes
from shmbench.native import sync

_SLOTS_OFFSET = 4096
_SLOT_BYTES = 8192
_TRIAL_BYTES = 64 * 1024
_EVERYBODY = 2**31 - 1
_LIFELINE_FROM = 512  # what libraries open has lower numbers


class _Word(IntEnum):
    """A word's index; each has a cache line."""

    TURN = 0  # how many trials have begun
    TOLD = 1  # how many ranks have done their part of a trial, over all trials
    CLOSED = 2  # how many have released what it opened, over all trials
    FAILED = 3  # how many ranks have failed in the current trial
    RANKS = 4  # of the current trial
    DEADLINE = 5  # of the current trial, by CLOCK_MONOTONIC in nanoseconds; 0 between trials
    WATCHDOG = 6  # its process id, once it watches
    OVER = 7  # 1: no further trial comes


def control_bytes(ranks: int) -> int:
    """How much shared memory the ranks of a node need."""
    return _SLOTS_OFFSET + ranks * _SLOT_BYTES + _TRIAL_BYTES + group_bytes(ranks)


def lifeline() -> tuple[int, int]:
    """A pipe that tells the end of this process before its launcher can know of it.

    Linux closes the files of a process that ends from the highest number down (task_work is last
    in, first out), so a pipe with a high number hangs up before the connection to the launcher, at
    whose end the launcher may end the other ranks.

    Returns:
        The reading end, for others to open through /proc, and the writing end, to be kept.
    """
    reading, writing = os.pipe()
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, min(_LIFELINE_FROM, most // 2))
    os.close(writing)
    return reading, high


class Control:
    """The shared words and slots, seen from one process.

    Args:
        memory: `control_bytes(ranks)` bytes, zeroed at first, in every rank of the node.
    """

    def __init__(self, memory: memoryview, ranks: int) -> None:
        self._memory = memory
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._trial_offset = _SLOTS_OFFSET + ranks * _SLOT_BYTES
        self.ranks = ranks
        self.group_memory = memory[self._trial_offset + _TRIAL_BYTES :]

    def _at(self, word: _Word) -> int:
        return self._address + 64 * word

    def _load(self, word: _Word) -> int:
        return int(sync.load64(self._at(word)))

    def _store(self, word: _Word, value: int) -> None:
        sync.store64(self._at(word), value)

    @staticmethod
    def _slot(rank: int) -> int:
        return _SLOTS_OFFSET + rank * _SLOT_BYTES

    # The first rank.

    def begin(self, trial: bytes, ranks: int, deadline_ns: int) -> None:
        """Have the first `ranks` ranks do a trial; the others wake, see that, and wait again.

        Raises:
            ValueError: a trial of more than 64 KiB.
        """
        if len(trial) > _TRIAL_BYTES - 8:
            raise ValueError(f"a trial has {_TRIAL_BYTES - 8} bytes at most, not {len(trial)}")
        self.group_memory[: group_bytes(ranks)] = bytes(group_bytes(ranks))
        for rank in range(ranks):
            sync.store64(self._address + self._slot(rank), 0)
            self._write(self._slot(rank) + 8, b"")
        self._write(self._trial_offset, trial)
        self._store(_Word.FAILED, 0)
        self._store(_Word.RANKS, ranks)
        self._store(_Word.DEADLINE, deadline_ns)
        self._next_turn()

    def end_trial(self) -> None:
        """Take the deadline away."""
        self._store(_Word.DEADLINE, 0)

    def end(self, deadline_ns: int) -> None:
        """Let all ranks go; until the deadline they have to be gone."""
        self._store(_Word.OVER, 1)
        self._store(_Word.DEADLINE, deadline_ns)
        self._next_turn()

    def _next_turn(self) -> None:
        sync.add64(self._at(_Word.TURN), 1)
        sync.futex_wake(self._at(_Word.TURN), _EVERYBODY)

    # Every rank.

    def turn(self) -> int:
        """The number of the current trial."""
        return self._load(_Word.TURN)

    def await_turn(self, last: int) -> int:
        """Wait for a trial after number `last`; gives its number."""
        while (turn := self.turn()) == last:
            sync.futex_wait(self._at(_Word.TURN), last & 0xFFFFFFFF)
        return turn

    def is_over(self) -> bool:
        """No further trial comes."""
        return self._load(_Word.OVER) == 1

    def trial(self) -> bytes:
        """What the current trial is; empty before the first."""
        return self._read(self._trial_offset)

    def trial_ranks(self) -> int:
        """How many ranks take part in the current trial."""
        return self._load(_Word.RANKS)

    def arrive(self, rank: int) -> None:
        """This rank comes to a barrier of the current trial."""
        sync.add64(self._address + self._slot(rank), 1)

    def fail(self, rank: int, failure: bytes) -> int:
        """Say how this rank failed; gives the watchdog's process id, to wake it."""
        self._write(self._slot(rank) + 8, failure[: _SLOT_BYTES - 16])
        sync.add64(self._at(_Word.FAILED), 1)
        return self._load(_Word.WATCHDOG)

    def failures(self) -> dict[int, bytes]:
        """What the ranks of the current trial have said by `fail`."""
        found = {rank: self._read(self._slot(rank) + 8) for rank in range(self.trial_ranks())}
        return {rank: failure for rank, failure in found.items() if failure}

    def tell(self) -> None:
        """This rank has done its part; returns when all ranks have."""
        self._meet(_Word.TOLD)

    def closed(self) -> None:
        """This rank has released what it opened; returns when all ranks have."""
        self._meet(_Word.CLOSED)

    def stand_by(self) -> None:
        """This rank has no part in the current trial."""
        for word in (_Word.TOLD, _Word.CLOSED):
            self._arrive(word)

    def _arrive(self, word: _Word) -> None:
        sync.add64(self._at(word), 1)
        sync.futex_wake(self._at(word), _EVERYBODY)

    def _meet(self, word: _Word) -> None:
        wanted = self.turn() * self.ranks  # the first rank begins no other turn meanwhile
        self._arrive(word)
        while (now := self._load(word)) < wanted:
            sync.futex_wait(self._at(word), now & 0xFFFFFFFF)

    # The watchdog.

    def watched_by(self, pid: int) -> None:
        """From now on a watchdog is there."""
        self._store(_Word.WATCHDOG, pid)

    def watchdog(self) -> int:
        """The watchdog's process id; 0 before there is one."""
        return self._load(_Word.WATCHDOG)

    def deadline_ns(self) -> int:
        """Of the current trial, by CLOCK_MONOTONIC; 0 between trials."""
        return self._load(_Word.DEADLINE)

    def last_to_arrive(self) -> list[int]:
        """The ranks of the current trial that have come to the fewest barriers."""
        counts = [
            sync.load64(self._address + self._slot(rank)) for rank in range(self.trial_ranks())
        ]
        return [rank for rank, count in enumerate(counts) if count == min(counts)]

    def _write(self, offset: int, item: bytes) -> None:
        self._memory[offset + 8 : offset + 8 + len(item)] = item
        struct.pack_into("<Q", self._memory, offset, len(item))

    def _read(self, offset: int) -> bytes:
        (length,) = struct.unpack_from("<Q", self._memory, offset)
        return bytes(self._memory[offset + 8 : offset + 8 + length])
