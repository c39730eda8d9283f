"""Populating ahead is kept only while it is measured to be faster than the kernel by itself."""

from __future__ import annotations

from statistics import median


class Trial:
    """Is populating ahead worth it? It compares the time a page with and without, again and again.

    Args:
        slow_ns: a page must take so long without; below, the helper thread is the bottleneck
            (300 to 450 ns a page on tmpfs; with 200 ns of work a page it gained nothing).
        gain: the time with (median), as a part of the time without (shortest), that is good
            enough: in doubt, without.
        samples: windows that are timed on either side.
        settle: windows left out after each change: what is ahead has to be reached first.
        pause: windows until the next attempt, doubled after each that fails.
        again: windows until an attempt that succeeded is repeated; other work on the node may
            have taken the helper's CPU meanwhile.
    """

    def __init__(
        self,
        *,
        slow_ns: float = 400.0,
        gain: float = 0.95,
        samples: int = 4,
        settle: int = 3,
        pause: int = 16,
        again: int = 64,
    ) -> None:
        self._slow_ns, self._gain = slow_ns, gain
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
        timed = self._with if self.on else self._without
        timed.append(ns_a_page)
        if len(timed) == self._samples:
            if not self.on and min(timed) >= self._slow_ns:
                self._turn(True, self._settle)
            elif self.on and median(timed) <= self._gain * min(self._without):
                self._skip = self._again
            else:
                self._turn(False, self._pause)
                self._pause = min(2 * self._pause, self._pause_max)
        elif len(timed) > self._samples:
            self._turn(False, self._settle)
        return self.on

    def _turn(self, on: bool, skip: int) -> None:
        self.on, self._skip = on, skip
        self._with = []
        if not on:
            self._without = []
