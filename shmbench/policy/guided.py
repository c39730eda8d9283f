"""Guided prefetch: the order of the accesses is known, so the kernel is told of it in time.

The paper (Choi, Kim, Han, HotStorage 2017) hands the kernel a list of what comes next. Here the
list stays in user space: `Follower` announces items some way ahead of the consumer
(MADV_WILLNEED, which queues the reads and returns), and the way ahead adapts by the law in
`distance.Distance`. Meanwhile the kernel's own read-ahead is off for the mapping (MADV_RANDOM):
around a random page it reads megabytes that nobody wants.

Where the items follow each other in the file, the kernel's read-ahead is the better guide: it reads
larger pieces into larger pages. Then the follower only maps, a MiB at a time.

Where all is in memory already, none of this gains anything: then the follower only looks at a
sample of the items now and then, and is a plain loop of slices otherwise.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from shmbench.native import guided as native
from shmbench.native import memory as kernel
from shmbench.native.reach import Reach
from shmbench.policy.distance import MOST_ITEMS, Distance
from shmbench.policy.order import Integers, Order

BUDGET_BYTES = 64 << 20
_WARM_FIRST, _WARM_MOST = 64, 16384  # items between two looks at the page cache
_WARM_SAMPLES = 16
_WARM_AGAIN_BYTES = 1 << 20  # in a row that were in memory before they were announced
_SEQUENCE_LEAST, _SEQUENCE_ITEMS, _SEQUENCE_BYTES = 16, 128, 1 << 20
_WORKS = 3  # a consumer that works at least a third of the time that we take
_GROUP_MOST = 64  # items that are waited for at once
_PROMPT_NS, _PROMPT_ITEM_NS = 20_000, 3_000  # to map a group that needs no I/O


@dataclass
class Followed:
    """What a follower has done so far.

    Attributes:
        items: handed to the consumer.
        announced: ranges that the kernel was asked to read, after merging.
        announced_bytes: their whole pages.
        late: looks at which the consumer's next item was not in memory yet.
        looks: how often that was looked at.
        refused: errno of the last announcement that the kernel refused; 0: none.
    """

    items: int = 0
    announced: int = 0
    announced_bytes: int = 0
    late: int = 0
    looks: int = 0
    refused: int = 0


class _ReadAheadOff:
    """Turns the kernel's read-ahead off for ranges, and on again when the last user is done."""

    def __init__(self) -> None:
        self._users: Counter[tuple[int, int]] = Counter()
        self._lock = threading.Lock()

    def enter(self, address: int, length: int) -> None:
        with self._lock:
            self._users[address, length] += 1
            kernel.madvise(address, length, kernel.MADV_RANDOM)

    def leave(self, address: int, length: int, afterwards: int) -> None:
        with self._lock:
            self._users[address, length] -= 1
            if not self._users[address, length]:
                del self._users[address, length]
                kernel.madvise(address, length, afterwards)


_read_ahead_off = _ReadAheadOff()


class _Pursuit:
    """The work behind a Follower. It does not know the follower, so that the two are no cycle."""

    def __init__(
        self,
        memory: memoryview,
        address: int,
        file: _File | None,
        order: Order,
        distance: Distance,
        budget_bytes: int,
        afterwards: int,
    ) -> None:
        self.stats = Followed()
        self._memory = memory
        self._address = address
        self._file = file
        self._order = order
        self._distance = distance
        self._budget_bytes = budget_bytes
        self._afterwards = afterwards
        self._always_there = file is not None and file.always_there
        self._sees_cache = self._always_there or file is None or file.shows_residency()

    def groups(self) -> Generator[Iterator[memoryview]]:
        """Iterators of items that are ready, one after the other."""
        while self._order.known(1):
            if self._sees_cache:
                yield from self._warm()
            yield from self._in_sequence()
            if self._order.known(1):
                yield from self._cold()

    def _warm(self) -> Generator[Iterator[memoryview]]:
        # Hands off, as long as every sample is in memory.
        order, count = self._order, _WARM_FIRST
        while items := order.known(count):
            step = max(1, items // _WARM_SAMPLES)
            view = (self._address, order.starts, order.stops)
            if not self._always_there and not native.in_memory(*view, 0, items, step):
                return
            if self._file is not None:
                self._file.check(order.starts[:items], order.stops[:items], self.stats.items)
            yield self._hand_out(items)
            count = min(2 * count, _WARM_MOST)

    def _sequence(self) -> int:
        """How many items of a sequence come next; 0: none, or read-ahead has to stay off."""
        order = self._order
        items = order.known(_SEQUENCE_ITEMS)
        if items < _SEQUENCE_LEAST or self._afterwards == kernel.MADV_RANDOM:
            return 0
        return items if native.in_sequence(order.starts, order.stops, items) else 0

    def _in_sequence(self) -> Generator[Iterator[memoryview]]:
        while items := self._sequence():
            group = self._order.affordable(_SEQUENCE_BYTES, items)
            self._map(group)
            yield self._hand_out(group)

    def _cold(self) -> Generator[Iterator[memoryview]]:
        # Announce and wait, until much in a row turns out to be in memory already.
        order, page = self._order, kernel.PAGE_BYTES
        start = self._address // page * page
        span = (start, self._address + len(self._memory) - start)
        announcer = native.Announcer(look=self._sees_cache)
        before = (self.stats.announced, self.stats.announced_bytes)
        resumed_ns, beside = time.perf_counter_ns(), False
        _read_ahead_off.enter(*span)
        try:
            while ahead := order.known(self._distance.items):
                ahead = order.affordable(self._budget_bytes, ahead)
                # In batches: more to merge, fewer calls.
                if order.announced <= ahead - max(1, ahead // 4):
                    if self._sequence():
                        return
                    announcer.announce(
                        self._address,
                        order.starts,
                        order.stops,
                        order.announced,
                        ahead,
                        beside=beside,
                    )
                    order.announced = ahead
                group = min(max(1, ahead // 8), _GROUP_MOST)
                self._wait(group, ahead)
                handed_ns = time.perf_counter_ns()
                yield self._hand_out(group)
                # While the consumer works, a thread announces. One that waits can do it itself.
                ours_ns, resumed_ns = handed_ns - resumed_ns, time.perf_counter_ns()
                beside = _WORKS * (resumed_ns - handed_ns) > ours_ns
                if self._note(announcer.told(), before) >= _WARM_AGAIN_BYTES and self._sees_cache:
                    return
        finally:
            announcer.close()
            self._note(announcer.told(), before)
            _read_ahead_off.leave(*span, self._afterwards)

    def _note(self, told: native.Announced, before: tuple[int, int]) -> int:
        self.stats.announced = before[0] + told.asked
        self.stats.announced_bytes = before[1] + told.bytes
        self.stats.refused = told.errno or self.stats.refused
        return told.in_memory_since

    def _wait(self, group: int, ahead: int) -> None:
        order, half = self._order, ahead // 2
        here, halfway = True, False
        if self._sees_cache:
            view = (self._address, order.starts, order.stops)
            here = native.in_memory(*view, 0, group)
            halfway = half > group and native.in_memory(*view, half, half + 1)
        begin_ns = time.perf_counter_ns()
        self._map(group)
        if not self._sees_cache:
            here = time.perf_counter_ns() - begin_ns < _PROMPT_NS + group * _PROMPT_ITEM_NS
        self.stats.looks += 1
        self.stats.late += not here
        self._distance.step(here=here, halfway=halfway)

    def _map(self, group: int) -> None:
        order, done = self._order, 0
        while done < group:
            done, error = native.populate(self._address, order.starts, order.stops, done, group)
            if error == errno.EINVAL:
                self._touch(group)
                return
            if error not in (0, errno.EINTR):
                if self._file is not None:
                    self._file.check(
                        order.starts[done:], order.stops[done:group], self.stats.items + done
                    )
                raise OSError(
                    error,
                    f"item {self.stats.items + done}, bytes {order.starts[done]} to "
                    f"{order.stops[done]}, can't be read: {os.strerror(error)}",
                    self._file.path() if self._file else None,
                )

    def _touch(self, group: int) -> None:
        # Before Linux 5.14: a file that shrinks between these two lines still ends in SIGBUS.
        order = self._order
        if self._file is not None:
            self._file.check(order.starts[:group], order.stops[:group], self.stats.items)
        for start, stop in zip(order.starts[:group], order.stops[:group], strict=True):
            kernel.touch_read(self._address + int(start), int(stop - start))

    def _hand_out(self, items: int) -> Iterator[memoryview]:
        order = self._order
        view = (self._memory, order.starts, order.stops, 0, items)
        if self._file is None:
            slices = native.Slices(*view)
        else:
            slices = native.Slices(*view, self._file.reach, self._lost(items))
        order.drop(items)
        self.stats.items += items
        return slices

    def _lost(self, items: int) -> Callable[[int], None]:
        """For items that are handed out now: what to do about one that the file has no more."""
        assert self._file is not None
        order, number, check = self._order, self.stats.items, self._file.check
        starts, stops = order.starts[:items], order.stops[:items]
        return lambda at: check(starts[at : at + 1], stops[at : at + 1], number + at)


class _File:
    """The mapped file: how long it is, and whether this user may know what is in the page cache."""

    def __init__(self, address: int, fd: int, offset: int, length: int) -> None:
        self._fd = fd
        self._offset = offset
        self.always_there = kernel.is_dax(fd)
        self.reach = Reach(address, fd, offset, length)

    def path(self) -> str:
        return str(Path(f"/proc/self/fd/{self._fd}").readlink())

    def shows_residency(self) -> bool:
        """For a file that the user neither owns nor may write, mincore(2) says "all there"."""
        return os.geteuid() in (0, os.fstat(self._fd).st_uid) or os.access(
            f"/proc/self/fd/{self._fd}", os.W_OK
        )

    def check(self, starts: Integers, stops: Integers, number: int) -> None:
        """Raise EFAULT where one of these items, the first with this number, is behind the end."""
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            return
        pages = -(-status.st_size // kernel.PAGE_BYTES)
        end = pages * kernel.PAGE_BYTES - self._offset
        if len(stops) and stops.max() > end:
            at = int(np.argmax(stops > end))
            raise OSError(
                errno.EFAULT,
                f"item {number + at}, bytes {starts[at]} to {stops[at]}, is gone: the file has "
                f"shrunk to {status.st_size} bytes",
                self.path(),
            )


class Follower:
    """An iterator of memoryviews, memory[o:o + length] for each offset o, announced ahead.

    It asks the order for items well before it hands them out, some thousand at most. Iterate it
    in one thread at a time. It never holds the GIL while it waits for a device.

    Args:
        memory: bytes that are mapped; the follower keeps them alive.
        address: of memory[0].
        fd: of the mapped file, for its size and path; it must stay open. None: no file, or an
            unknown one: that it shrinks goes unnoticed then as long as all is in memory.
        offsets: where each item begins, in bytes from memory[0]; may be endless.
        length: of each item in bytes, or one length for each offset.
        budget_bytes: at most this much announced and not yet consumed, in whole pages; one item
            is announced in any case.
        most_items: the limit of the distance.
        file_offset: of memory[0] in the file, in bytes.
        advice_afterwards: MADV_* that the mapping had, and gets again at the end.

    Raises:
        ValueError: while iterating, an item outside of `memory`, or fewer lengths than offsets.
        OSError: while iterating, EFAULT where the file has shrunk, with its path; or EIO.
    """

    def __init__(
        self,
        memory: memoryview,
        address: int,
        fd: int | None,
        offsets: Iterable[int] | Integers,
        length: int | Sequence[int] | Integers,
        *,
        budget_bytes: int = BUDGET_BYTES,
        most_items: int = MOST_ITEMS,
        file_offset: int = 0,
        advice_afterwards: int = kernel.MADV_NORMAL,
    ) -> None:
        if budget_bytes < 1:
            raise ValueError(f"a budget of {budget_bytes} bytes")
        pursuit = _Pursuit(
            memory,
            address,
            None if fd is None else _File(address, fd, file_offset, len(memory)),
            Order(offsets, length, len(memory)),
            Distance(first=min(16, most_items), least=min(128, most_items), most=most_items),
            budget_bytes,
            advice_afterwards,
        )
        self.stats = pursuit.stats
        self._groups = pursuit.groups()
        self._items: Iterator[memoryview] = chain.from_iterable(self._groups)

    def __iter__(self) -> Iterator[memoryview]:
        return self._items

    def __next__(self) -> memoryview:
        return next(self._items)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and give the mapping its advice back; idempotent. So does the end of the order."""
        self._groups.close()
        self._items = iter(())
