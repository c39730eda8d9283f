"""Populating ahead is kept only while it is measured to be faster than the kernel by itself."""

from __future__ import annotations

from statistics import median


class Trial:
    """Is populating ahead worth it? It compares the time a page with and without, again and again.

    Args:
        slow_ns: a page must take so long without; below, the helper thread is the bottleneck, which
            takes 270 ns a page of tmpfs and more.
        gain: the time with (median), as a part of the time without (shortest), that is good
            enough: in doubt, without.
        worse: a single window that takes so many times as long as without ends an attempt.
        samples: windows that are timed on either side.
        settle: windows left out after each change: what is ahead has to be reached first.
        pause: windows until the next attempt, doubled after each that fails.
        again: windows until an attempt that succeeded is repeated; other work on the node may
            have taken the helper's CPU meanwhile.
    """

    def __init__(
        self,
        *,
        slow_ns: float = 360.0,
        gain: float = 0.95,
        worse: float = 1.15,
        samples: int = 3,
        settle: int = 2,
        pause: int = 16,
        again: int = 128,
    ) -> None:
        self._slow_ns, self._gain, self._worse = slow_ns, gain, worse
        self._samples, self._settle = samples, settle
        self._pause, self._pause_max, self._again = pause, 64 * pause, again
        self._without: list[float] = []
        self._with: list[float] = []
        self._skip = 0
        self.on = False

    def window(self, ns_a_page: float) -> bool:
        """A window took so long; populate the next one?"""
        if self._skip:
            self._skip -= 1
            return self.on
        if self.on:
            self._judge(ns_a_page)
        else:
            self._without.append(ns_a_page)
            if min(self._without) < self._slow_ns:
                self._give_up()
            elif len(self._without) == self._samples:
                self._turn(True, self._settle)
        return self.on

    def rest(self) -> int:
        """For how many windows nothing would change; they need not be told, once this was asked."""
        if self.on or self._skip <= self._settle:
            return 0
        windows, self._skip = self._skip, 0
        return windows

    def _judge(self, ns_a_page: float) -> None:
        before = min(self._without)
        self._with.append(ns_a_page)
        if len(self._with) > self._samples:  # it has lasted: look what it is like without
            self._turn(False, self._settle)
        elif ns_a_page > self._worse * before:
            self._give_up()
        elif len(self._with) == self._samples:
            if median(self._with) <= self._gain * before:
                self._skip = self._again
            else:
                self._give_up()

    def _give_up(self) -> None:
        self._turn(False, self._pause)
        self._pause = min(2 * self._pause, self._pause_max)

    def _turn(self, on: bool, skip: int) -> None:
        self.on, self._skip = on, skip
        self._with = []
        if not on:
            self._without = []
