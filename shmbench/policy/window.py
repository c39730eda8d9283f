"""The law of the window: from a program's accesses to what should be fetched ahead of it.

Pure arithmetic on page numbers: no mapping, no clock, no input or output. After the map-ahead of
Choi, Kim and Han (HotStorage 2017), whose window doubles while access looks sequential and shrinks
on random access; several streams at once, backwards and with strides, are ours.

- An access that touches or overlaps the end (or the beginning) of an earlier one makes a forward
  (backward) **stream**; four accesses at equal distances make a **strided** one.
- A stream has a **window**. When less than a window is left of what was asked for, one more window
  is asked for, and the window doubles, up to its maximum. So at most two windows are ahead.
- A strided stream asks for the pieces that its next steps will read; its window counts steps.
- An access that belongs to no stream is random. It halves the window of the stream that was used
  last; at its minimum, as many of them as there may be streams end it. After `random_after` in a
  row (a stream's access makes up for two) access as a whole is `random`, until streams win again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Pages to fetch now, before they are used.

    Attributes:
        first_page: the lowest page, whatever the direction.
        pages: how many, at least 1.
        direction: 1 for a stream towards higher pages, -1 for one towards lower pages.
    """

    first_page: int
    pages: int
    direction: int


@dataclass(slots=True, eq=False)
class Stream:
    """Accesses that follow each other, in positions that grow in the stream's direction.

    A position is a page number forwards, and minus the number of the page behind it backwards; so
    one arithmetic serves both.

    Attributes:
        direction: 1 or -1.
        step: 0 for a sequential stream, else from one access's position to the next one's.
        at: position of the last access.
        pages: its length.
        window: what is asked for at a time: pages, or steps of a strided stream.
        edge: position behind what was asked for (sequential), or of the first step that was not
            (strided).
        strikes: random accesses since its last one, at its smallest window.
    """

    direction: int
    step: int
    at: int
    pages: int
    window: int
    edge: int
    strikes: int = 0

    def position(self, first_page: int, pages: int) -> int:
        """Of an access, in this stream's direction."""
        return first_page if self.direction > 0 else -(first_page + pages)

    def continued_by(self, at: int) -> bool:
        """Is an access at this position the stream's next, or among those that it expects?"""
        if not self.at <= at <= self.edge:
            return False
        return not self.step or (at - self.at) % self.step == 0

    def unused_pages(self) -> int:
        """Pages that were asked for and that no access has come to."""
        if self.step:
            return max(0, (self.edge - self.at) // self.step - 1) * self.pages
        return max(0, self.edge - self.at - self.pages)


class Law:
    """Streams and their windows. One instance an address range; `access` after `access`.

    Args:
        total_pages: of the range; nothing beyond is ever asked for. None: no upper end.
        window_min: pages of a new stream's window.
        window_max: pages; on warm tmpfs, 4 MiB windows gained 1.4 to 1.7 times and 256 KiB windows
            nothing, since two threads then fault in the same page table.
        steps_min: steps that a new strided stream asks for.
        steps_max: steps; measured on a virtio disk with strides of 1 MiB: 86 us an access with
            none ahead, 25 us with 512.
        budget_pages: what a strided stream may have ahead, however long its accesses.
        streams: how many are followed at once; the least recently used gives way.
        memory: how many accesses without a stream are remembered to find the next stream.
        dense_pages: strides of at most so many pages are sequential: the kernel's read-ahead and
            fault-around (16 pages) serve them better than single pieces do.
        random_after: random accesses in a row that make access `random`.
        step: a stride that is known beforehand, in pages: two accesses then make a stream.
    """

    def __init__(
        self,
        *,
        total_pages: int | None = None,
        window_min: int = 16,
        window_max: int = 1024,
        steps_min: int = 8,
        steps_max: int = 512,
        budget_pages: int = 8192,
        streams: int = 16,
        memory: int = 32,
        dense_pages: int = 8,
        random_after: int = 4,
        step: int | None = None,
    ) -> None:
        if not 1 <= window_min <= window_max or not 1 <= steps_min <= steps_max:
            raise ValueError("a window's minimum is at least 1, and at most its maximum")
        if streams < 1 or memory < 4 or random_after < 1 or step == 0:
            raise ValueError("a law needs 1 stream, 4 accesses of memory, 1 random access")
        self.total_pages = total_pages
        self.window_min, self.window_max = window_min, window_max
        self.steps_min, self.steps_max = steps_min, steps_max
        self.budget_pages = budget_pages
        self.capacity, self.memory = streams, memory
        self.dense_pages = dense_pages
        self.random_after = random_after
        self.known_step = step
        self.streams: list[Stream] = []  # most recently used first
        self.current: Stream | None = None  # that of the last access
        self.random = False
        self.accesses = self.accesses_of_streams = 0
        self.windows = self.pages_asked = self.pages_cancelled = 0
        self.pages_advanced = 0  # by sequential streams
        self._score = 0
        self._singles: OrderedDict[int, int] = OrderedDict()  # first page -> pages, oldest first
        self._ends: dict[int, int] = {}  # page behind -> first page, of the singles

    def access(self, first_page: int, pages: int) -> list[Prefetch]:
        """Take note of an access; what to fetch ahead because of it.

        Args:
            first_page: of the access.
            pages: that it touches, at least 1.

        Returns:
            Pieces in the order of their use, none asked for twice by one stream.
        """
        self.accesses += 1
        for i, stream in enumerate(self.streams):
            at = stream.position(first_page, pages)
            if stream.continued_by(at):
                if i:
                    self.streams.insert(0, self.streams.pop(i))
                self._count(stream)
                return self._advance(stream, at, pages)
        born = self._birth(first_page, pages)
        if born is not None:
            self._count(born)
            return self._ask(born)
        self._count(None)
        self._halve()
        self._remember(first_page, pages)
        return []

    def quiet(self) -> tuple[int, int]:
        """Pages (first, end) in which the last access's stream needs no `access` to be told.

        The law decides alike whether it hears of accesses there or not; (0, 0): there are none.
        """
        stream = self.current
        if stream is None or stream.step:
            return 0, 0
        low, high = stream.at, stream.edge - stream.window
        if low >= high:
            return 0, 0
        return (low, high) if stream.direction > 0 else (-high, -low)

    def _count(self, stream: Stream | None) -> None:
        self.current = stream
        if stream is None:
            self._score = min(self._score + 1, 2 * self.random_after)
        else:
            self.accesses_of_streams += 1
            self._score = max(self._score - 2, 0)
        self.random = self._score >= self.random_after or (self.random and self._score > 0)

    def _advance(self, stream: Stream, at: int, pages: int) -> list[Prefetch]:
        if at == stream.at and pages <= stream.pages:
            return []
        stream.strikes = 0
        if stream.step:
            stream.at, stream.pages = at, pages
            # Streams at equal distances look like a stride, until the first of them goes on.
            self._remember(at if stream.direction > 0 else -(at + pages), pages)
            ahead = (stream.edge - at) // stream.step - 1
            stream.window = min(2 * stream.window, self.steps_max)
            stream.window = max(1, min(stream.window, self.budget_pages // pages))
            return self._ask(stream) if ahead <= stream.window - stream.window // 8 else []
        end = max(stream.at + stream.pages, at + pages)
        self.pages_advanced += max(0, end - stream.at - stream.pages)
        stream.at, stream.pages = at, pages
        if stream.edge - (at + pages) >= stream.window:
            return []
        stream.window = min(2 * stream.window, self.window_max)
        return self._ask(stream)

    def _ask(self, stream: Stream) -> list[Prefetch]:
        """Move the stream's edge on, and give what lies between."""
        if stream.step:
            found = []
            stream.edge = max(stream.edge, stream.at + stream.step)
            while stream.edge <= stream.at + stream.window * stream.step:
                found += self._piece(stream, stream.edge, stream.pages)
                stream.edge += stream.step
        else:
            start = max(stream.edge, stream.at + stream.pages)
            stream.edge = start + stream.window
            found = self._piece(stream, start, stream.window)
        if found:
            self.windows += 1
            self.pages_asked += sum(piece.pages for piece in found)
        return found

    def _piece(self, stream: Stream, at: int, pages: int) -> list[Prefetch]:
        """What of these positions lies within the range."""
        low, high = (at, at + pages) if stream.direction > 0 else (-(at + pages), -at)
        low = max(low, 0)
        if self.total_pages is not None:
            high = min(high, self.total_pages)
        return [Prefetch(low, high - low, stream.direction)] if high > low else []

    def _halve(self) -> None:
        if not self.streams:
            return
        stream = self.streams[0]
        smallest = self.steps_min if stream.step else self.window_min
        if stream.window > smallest:
            stream.window = max(stream.window // 2, smallest)
        else:
            stream.strikes += 1
            if stream.strikes == self.capacity:  # fewer may be other streams' beginnings
                self._end(0)

    def _end(self, index: int) -> None:
        self.pages_cancelled += self.streams.pop(index).unused_pages()

    def _birth(self, first_page: int, pages: int) -> Stream | None:
        """The stream that this access makes with accesses that are remembered, if any."""
        found = self._sequential(first_page, pages) or self._strided(first_page, pages)
        if found is None:
            return None
        direction, step = found
        at = first_page if direction > 0 else -(first_page + pages)
        window = self.steps_min if step else self.window_min
        if step:
            window = max(1, min(window, self.budget_pages // pages))
        stream = Stream(direction, step, at, pages, window, at + (step or pages))
        if len(self.streams) == self.capacity:
            self._end(len(self.streams) - 1)
        self.streams.insert(0, stream)
        return stream

    def _sequential(self, first_page: int, pages: int) -> tuple[int, int] | None:
        """The direction of an access that touches the end or the beginning of a remembered one."""
        behind = first_page + pages
        for end in (first_page, first_page + 1):
            before = self._ends.get(end)
            if before is not None and before < first_page:
                self._forget(before)
                return 1, 0
        for start in (behind, behind - 1):
            after = self._singles.get(start)
            if after is not None and first_page < start and behind < start + after:
                self._forget(start)
                return -1, 0
        return None

    def _strided(self, first_page: int, pages: int) -> tuple[int, int] | None:
        """The direction and step of an access that goes on an arithmetic progression."""
        # If four at equal distances are all remembered, the last but one is among these.
        for before in islice(reversed(self._singles), self.memory // 3 + 1):
            step = first_page - before
            if not step:
                continue
            known = step == self.known_step
            dense = abs(step) <= self.dense_pages
            earlier = before - step in self._singles
            if known or (earlier and (dense or before - 2 * step in self._singles)):
                self._remember(first_page, pages)
                return (1 if step > 0 else -1), 0 if dense else abs(step)
        return None

    def _remember(self, first_page: int, pages: int) -> None:
        self._forget(first_page)
        self._singles[first_page] = pages
        self._ends[first_page + pages] = first_page
        if len(self._singles) > self.memory:
            self._forget(next(iter(self._singles)))

    def _forget(self, first_page: int) -> None:
        pages = self._singles.pop(first_page, None)
        if pages is not None and self._ends.get(first_page + pages) == first_page:
            del self._ends[first_page + pages]
