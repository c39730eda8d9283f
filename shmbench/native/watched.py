"""What a watcher tells of itself."""

from __future__ import annotations

from typing import NamedTuple


class Watched(NamedTuple):
    """What a watcher has seen and done.

    Attributes:
        polls: looks at the mapping, or for faults; there is none while no thread of the process has
            a page fault.
        scans: those of them at all of the mapping.
        scan_ns: the CPU time that these took.
        touched: pages that were seen to become mapped by an access.
        recognised: strided streams.
        explained: steps that streams have made.
        announced: pages that the kernel was asked to read (userfaultfd: to map) ahead.
        refused: such requests that it refused.
        errno: of the last one; 0: none.
        switches: how often the mapping's read-ahead was turned off or on (userfaultfd: mapping
            around a fault as well, and leaving all to the kernel).
        faults: pages that somebody waited for (userfaultfd; else 0, as are the next two).
        continued: pages that were mapped: those, and the ones ahead.
        windows: of sequential runs, and around pages without a pattern.
    """

    polls: int
    scans: int
    scan_ns: int
    touched: int
    recognised: int
    explained: int
    announced: int
    refused: int
    errno: int
    switches: int
    faults: int = 0
    continued: int = 0
    windows: int = 0
