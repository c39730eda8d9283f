"""Rings over any region's memory, one kind a wait strategy; see shmbench.native.ring."""

from __future__ import annotations

import os
from itertools import accumulate
from typing import Any, ClassVar, Self

from shmbench.channels import Channel, ChannelSpec
from shmbench.errors import UsageError
from shmbench.group import Group
from shmbench.native.ring import (
    EventfdEnd,
    FutexEnd,
    Layout,
    RingEndpoint,
    SemaphoreEnd,
    SpinEnd,
)
from shmbench.regions import Span

_LOOKS_BEFORE_YIELD = 100
_LOOKS_BEFORE_SLEEP = 1000  # about what a futex's sleep and wake cost, at 40 ns a look
_SLOTS_TO_SPIN = 32  # of small messages: see Layout
_SLOTS_TO_SLEEP = 2048


class SpinRing(Channel):
    """Waits by looking at the slot; yields the CPU where ranks share one."""

    kind = "spin"
    driver = "native"
    copies = 2
    uses_region = True
    inflight_messages = 4  # half of the fewest slots
    inflight_bytes = 4 * 32768
    end: ClassVar[type[RingEndpoint]] = SpinEnd
    small_slots: ClassVar[int] = _SLOTS_TO_SPIN

    @classmethod
    def layouts(cls, spec: ChannelSpec) -> list[Layout]:
        """The layout of each link's ring."""
        slots = _SLOTS_TO_SLEEP if spec.yielding else cls.small_slots
        return [Layout(spec.message_bytes, len(link.targets), slots) for link in spec.links]

    @classmethod
    def region_bytes(cls, spec: ChannelSpec) -> int:
        return sum(layout.size_bytes for layout in cls.layouts(spec))

    @classmethod
    def open(
        cls, group: Group, spec: ChannelSpec, region: Span | None, inherited: Any = None
    ) -> Self:
        if region is None:
            raise UsageError(f"channel {cls.kind} needs a region", "give one with --region")
        channel = cls(group.rank, spec, region, inherited)
        if group.rank == 0:
            for address, layout in zip(channel._addresses, channel._layouts, strict=True):
                RingEndpoint.prepare(address, layout)
        group.barrier()
        return channel

    def __init__(self, rank: int, spec: ChannelSpec, region: Span, inherited: Any) -> None:
        self._rank = rank
        self._spec = spec
        self._region = region
        self._inherited = inherited
        self._layouts = self.layouts(spec)
        sizes = [layout.size_bytes for layout in self._layouts]
        self._addresses = [region.address + offset for offset in accumulate([0, *sizes[:-1]])]

        self._ends: dict[int, RingEndpoint] = {}  # by link: an end counts what passed it

    def _make_end(self, link: int, reader: int) -> RingEndpoint:
        return self.end(self._region, self._addresses[link], self._layouts[link], reader)

    def _end(self, link: int, reader: int) -> RingEndpoint:
        if link in self._ends:
            return self._ends[link]
        end = self._ends[link] = self._make_end(link, reader)
        if self._spec.yielding:
            end.spins_before_yield = _LOOKS_BEFORE_YIELD
        return end

    def sender(self, link: int) -> RingEndpoint:
        return self._end(link, -1)

    def receiver(self, link: int) -> RingEndpoint:
        return self._end(link, self._spec.links[link].targets.index(self._rank))

    def close(self) -> None:
        """Let go of the ends; the memory is the region's."""
        self._ends.clear()


class FutexRing(SpinRing):
    """Sleeps on a futex as soon as there is nothing to do; wakes the other side if it sleeps."""

    kind = "futex"
    small_slots = _SLOTS_TO_SLEEP
    end = FutexEnd


class AdaptiveRing(SpinRing):
    """Looks for a while, then sleeps on a futex."""

    kind = "adaptive"
    small_slots = _SLOTS_TO_SLEEP

    def _make_end(self, link: int, reader: int) -> RingEndpoint:
        end = FutexEnd(self._region, self._addresses[link], self._layouts[link], reader)
        end.looks = 0 if self._spec.yielding else _LOOKS_BEFORE_SLEEP
        return end


class SemaphoreRing(SpinRing):
    """Counts items and space with process-shared POSIX semaphores in the region."""

    kind = "semaphore"
    small_slots = _SLOTS_TO_SLEEP
    end = SemaphoreEnd


class _Eventfds:
    """Two eventfds a reader of each ring, made before the ranks are forked."""

    def __init__(self, rings: list[Layout]) -> None:
        self.items: list[list[int]] = []
        self.space: list[list[int]] = []
        for layout in rings:
            self.items.append([os.eventfd(0) for _ in range(layout.readers)])
            self.space.append([os.eventfd(layout.slots) for _ in range(layout.readers)])

    def close(self) -> None:
        for row in self.items + self.space:
            while row:
                os.close(row.pop())


class EventfdRing(SpinRing):
    """Counts items and space with eventfd(2)."""

    kind = "eventfd"
    small_slots = _SLOTS_TO_SLEEP
    needs_fork = True

    @classmethod
    def inherit(cls, spec: ChannelSpec) -> _Eventfds:
        return _Eventfds(cls.layouts(spec))

    def _make_end(self, link: int, reader: int) -> RingEndpoint:
        fds: _Eventfds = self._inherited
        return EventfdEnd(
            self._region,
            self._addresses[link],
            self._layouts[link],
            reader,
            fds.items[link],
            fds.space[link],
        )

    def close(self) -> None:
        super().close()
        self._inherited.close()
