"""/proc/self/smaps: what the kernel says about the mappings of this process (proc_pid_smaps(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_HEADER = re.compile(
    r"([0-9a-f]+)-([0-9a-f]+) \S{4} [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) \d+ *(.*)\n?"
)
_FIELD = re.compile(r"(\w+): +(\d+) kB\n?")


@dataclass
class MappedRange:
    """One mapping.

    Attributes:
        start: the first address.
        end: the first address behind it.
        device: of the file that is mapped, as os.stat's st_dev; 0 where there is none.
        path: of the file, or the kernel's word for what it is; "" for private memory.
        bytes_of: field name, such as "AnonHugePages", to bytes.
    """

    start: int
    end: int
    device: int
    path: str
    bytes_of: dict[str, int] = field(default_factory=dict)


def parse(lines: Iterable[str]) -> list[MappedRange]:
    """All mappings in a text of /proc/PID/smaps."""
    ranges: list[MappedRange] = []
    for line in lines:
        if header := _HEADER.fullmatch(line):
            start, end, major, minor = (int(group, 16) for group in header.groups()[:4])
            ranges.append(MappedRange(start, end, os.makedev(major, minor), header[5]))
        elif (pair := _FIELD.fullmatch(line)) and ranges:
            ranges[-1].bytes_of[pair[1]] = int(pair[2]) * 1024
    return ranges


def mappings_at(address: int, length: int) -> list[MappedRange]:
    """This process's mappings that have bytes of a range."""
    with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as listing:
        return [
            each for each in parse(listing) if each.start < address + length and address < each.end
        ]
