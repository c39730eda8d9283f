"""Map-ahead: what to do about what the law of the window asks for, given the page cache's state.

| access, pages | what is done | measured |
|---|---|---|
| sequential or backwards, cold | nothing: the kernel's read-ahead is good | 5 to 8 us a page |
| sequential, warm | POPULATE_READ on another CPU, while that makes it faster | 1.4 to 1.7 times |
| the first short read, 256 MiB and more | read-ahead off until more is known | 2.4 ms less |
| strides, cold | read-ahead off; WILLNEED of up to 512 steps ahead | 4 to 30 times |
| random, cold, 256 MiB and more | read-ahead off, until streams win again | 3 to 9 times |
| random, cold, for long | all of the file is asked for, where it fits into memory | |
| strides, warm | the gate maps the next steps in one go (`stride_law`) | 1.0 to 1.6 times |
| random, warm | nothing, not even watching, until a page is missing | |
"""

from __future__ import annotations

import os
import time

from shmbench.native import memory
from shmbench.native.gate import Gate
from shmbench.native.memory import PAGE_BYTES
from shmbench.native.prefetch import PAGEOUT, POPULATE_READ, WILLNEED, Prefetcher
from shmbench.policy.pressure import memory_to_spare
from shmbench.policy.residency import Residency, State
from shmbench.policy.trial import Trial
from shmbench.policy.window import Law, Prefetch

SURE_STRIDES = 8  # in a row, before read-ahead is off: a wrong MADV_RANDOM costs 27 times
# A page at random takes as long to read as so much in sequence: 71 us at 1.6 GB/s on a virtio disk;
# a rotating disk's MiB (10 ms at 0.1 GB/s) only makes this late. When misses have taken as long as
# reading all would, all is asked for: at most twice the time of the better one (ski rental).
MISS_BYTES = 128 << 10
# A smaller file is in memory as a whole after some dozen of the kernel's read-arounds (8 MiB here):
# no read-ahead made 2048 random reads of 64 MiB half as fast. For a larger one it is off at once,
# until the first stream is seen, two accesses later.
LARGE_BYTES = 256 << 20
TIMED_PAGES = 256  # of a window; what is asked in shorter ones is no measure
NEVER = 1 << 62  # bytes in a row
LOOK_WINDOWS, LOOK_ACCESSES = 8, 256  # between two looks at the page cache: 20 to 40 us each


def is_large(length: int) -> bool:
    """Is a file so long that random reads of it are better off without read-ahead at once?"""
    return length >= LARGE_BYTES


class MapAhead:
    """Watches the accesses to a mapping, and acts ahead of them.

    Args:
        gate: of the mapping; it decides which accesses come here.
        law: of the window, for the mapping's pages.
        residency: of the mapping.
        prefetcher: the helper thread.
        always: fetch every window ahead, also where the kernel by itself is known to be as good.
        drop_behind: pages that a sequential stream has passed may go (MADV_PAGEOUT).
    """

    def __init__(
        self,
        gate: Gate,
        law: Law,
        residency: Residency,
        prefetcher: Prefetcher,
        *,
        always: bool = False,
        drop_behind: bool = False,
    ) -> None:
        self.law = law
        self.unseen = False  # there are other accesses: read-ahead stays on
        self._prefetcher = prefetcher
        self.look_at(gate, residency)
        self._always, self._drop_behind = always, drop_behind
        # A helper on the consumer's own CPU can only take time away from it.
        self._may_populate = always or len(os.sched_getaffinity(0)) > 1
        self.bytes_willneed = self.bytes_populate = self.bytes_dropped = 0
        self._trial = Trial()
        self._timed = 0, 0  # when the last window was asked for, and after how many pages
        self._next_look = self._next_random_look = 0
        self._strides = 0
        self._state: State = "mixed"

    def look_at(self, gate: Gate, residency: Residency) -> None:
        """The mapping is here now, and so long; what was learned about its use stays."""
        # Page 0 begins so many bytes before the mapping's first byte.
        self._skew = gate.address % PAGE_BYTES
        self._gate, self._residency = gate, residency
        self.law.total_pages = -(-(gate.length + self._skew) // PAGE_BYTES)
        self.read_ahead = True
        self._misses_before = gate.misses
        self._all_asked = False

    def access(self, offset: int, length: int) -> None:
        """An access that the gate asks about.

        Raises:
            OSError: the mapping is gone, or the thread can't be started.
        """
        if self._gate.alone:
            self._go_on_alone()
        first = (offset + self._skew) // PAGE_BYTES
        last = (offset + self._skew + length - 1) // PAGE_BYTES
        pieces = self.law.access(first, last - first + 1)
        stream = self.law.current
        if stream is None:
            self._random()
        elif stream.step:
            self._strides += 1
            self._strided(pieces)
        else:
            self._strides = 0
            self._sequential(pieces, stream.direction)

    def close(self) -> None:
        """Leave the kernel's read-ahead as it was."""
        self._set_read_ahead(True)

    def _go_on_alone(self) -> None:
        """The gate has turned read-ahead off, and the access was not in memory."""
        self._gate.alone = self.read_ahead = False
        self._gate.exact = True

    def _random(self) -> None:
        large = is_large(self._gate.length)
        early = large and self.law.accesses <= self.law.random_after
        if not self.law.random and not early:
            return
        if not large:
            self._set_read_ahead(True)
            self._gate.doze()
            return
        if self.read_ahead or self.law.accesses >= self._next_random_look:
            self._next_random_look = self.law.accesses + LOOK_ACCESSES
            self._state = self._residency.sample()
            self._next_look = 0
        if self._state == "warm":
            self._set_read_ahead(True)
            self._gate.doze()
            return
        if self.read_ahead:
            self._misses_before = self._gate.misses
            self._set_read_ahead(False)
        if not self._all_asked:
            self._ask_for_all()

    def _ask_for_all(self) -> None:
        """Once misses have cost what reading all would have; by the helper, in order."""
        size, misses = self._gate.length, self._gate.misses - self._misses_before
        if misses * MISS_BYTES < size:
            return
        self._all_asked = True
        if size <= memory_to_spare():
            every = Prefetch(0, self.law.total_pages or 0, 1)
            self.bytes_willneed += self._submit([every], WILLNEED)

    def _strided(self, pieces: list[Prefetch]) -> None:
        if not pieces:
            return
        self._look_ahead(pieces[-1])
        if self._state == "warm" and not self._always:
            self._gate.doze()
            return
        if self._strides > SURE_STRIDES:
            self._set_read_ahead(False)
        self.bytes_willneed += self._submit(pieces, WILLNEED)

    def _sequential(self, pieces: list[Prefetch], direction: int) -> None:
        if self.law.random:
            return
        self._set_read_ahead(True)
        if pieces:
            self._window(pieces, direction)
        start, end = (page * PAGE_BYTES - self._skew for page in self.law.quiet())
        start, end = max(0, start), min(end, self._gate.length)
        if start < end:
            there = self._gate.all_there or self._gate.there(start, end - start)
            self._gate.quiet(start, end, there)

    def _window(self, pieces: list[Prefetch], direction: int) -> None:
        self._look_ahead(pieces[-1])
        if self._state != "warm":
            if self._always:
                self.bytes_willneed += self._submit(pieces, WILLNEED)
        elif self._always or self._pays(pieces[-1]):
            self.bytes_populate += self._submit(pieces, POPULATE_READ)
        if self._drop_behind:
            self._drop(direction)

    def _pays(self, piece: Prefetch) -> bool:
        """Is it worth it to populate this window of a warm file?"""
        if not self._may_populate:
            self._rest(None)
            return False
        if piece.pages < min(TIMED_PAGES, self.law.window_max):
            return False
        now_ns, pages = time.perf_counter_ns(), self.law.pages_advanced
        began_ns, began_pages = self._timed
        self._timed = now_ns, pages
        if began_ns == 0:  # the first window since a rest
            return self._trial.begin(self._gate.run_ns)
        on = self._trial.window((now_ns - began_ns) / max(1, pages - began_pages))
        self._rest(self._trial.rest())
        return on

    def _rest(self, windows: int | None) -> None:
        """Hear no more of warm files for so many windows; None: until a page is missing."""
        if windows == 0 or self._drop_behind:
            return
        self._timed = 0, 0
        self._gate.doze(NEVER if windows is None else windows * self.law.window_max * PAGE_BYTES)

    def _look_ahead(self, piece: Prefetch) -> None:
        """Now and then, find out the state of all that lies ahead.

        Of all, because near by it is what the kernel's read-ahead has just brought.
        """
        if self.law.windows < self._next_look:
            return
        self._next_look = self.law.windows + LOOK_WINDOWS
        if self._gate.all_there:
            self._state = "warm"
        elif piece.direction > 0:
            self._state = self._residency.sample(piece.first_page * PAGE_BYTES)
        else:
            end = (piece.first_page + piece.pages) * PAGE_BYTES
            self._state = self._residency.sample(0, end)

    def _drop(self, direction: int) -> None:
        """Let go of the window that lies a window behind."""
        stream = self.law.current
        assert stream is not None
        behind = stream.at - 2 * stream.window
        first = behind if direction > 0 else -(behind + stream.window)
        first, end = max(0, first), min(first + stream.window, self.law.total_pages or 0)
        if first < end:
            self.bytes_dropped += self._submit([Prefetch(first, end - first, direction)], PAGEOUT)

    def _submit(self, pieces: list[Prefetch], action: int) -> int:
        address = self._gate.address - self._skew
        ranges = [(address + p.first_page * PAGE_BYTES, p.pages * PAGE_BYTES) for p in pieces]
        self._prefetcher.submit_many(ranges, action)
        return sum(length for _, length in ranges)

    def _set_read_ahead(self, on: bool) -> None:
        if (on or self.unseen) == self.read_ahead and not self._gate.alone:
            return
        on = on or self.unseen
        self._gate.alone = False
        self.read_ahead = on
        self._gate.exact = not on
        advice = memory.MADV_NORMAL if on else memory.MADV_RANDOM
        memory.madvise(self._gate.address - self._skew, self._gate.length + self._skew, advice)
