"""Reading the small text files of /sys and /proc. What is not there, or not readable, is None."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

MAX_CPU = 65535  # far above the kernel's largest NR_CPUS (8192)

_CPU_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")


def read_text(path: Path) -> str | None:
    """The file's text without the white space around it; None where it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The file's integer; None where it can't be read or is none."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def parse_cpus(text: str) -> list[int]:
    """CPU numbers of a list such as "0-3,8", in the order given; none for an empty text.

    Raises:
        ValueError: the text is no such list, a range runs backwards, or a number is absurd.
    """
    text = text.strip()
    if not text:
        return []
    if not _CPU_LIST.fullmatch(text):
        raise ValueError(f"{text!r} is not a list of CPUs such as 0-3,8")
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if high < low or high > MAX_CPU:
            raise ValueError(f"{part!r} is not a range of CPUs")
        cpus.extend(range(low, high + 1))
    return cpus


def format_cpus(cpus: Iterable[int]) -> str:
    """The shortest list of some CPUs: [0, 1, 2, 8] is "0-2,8"."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def read_cpus(path: Path) -> list[int] | None:
    """The file's list of CPUs; None where it can't be read or is none."""
    text = read_text(path)
    try:
        return None if text is None else parse_cpus(text)
    except ValueError:
        return None
