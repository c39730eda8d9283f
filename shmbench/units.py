"""Bytes, durations and rates: from what a user types, and to what a user reads.

Sizes are binary (4K = 4 KiB = 4096 bytes), rates decimal (1 GB/s = 10^9 bytes per second), as
benchmarks of memory and of networks print them.
"""

from __future__ import annotations

import re

from shmbench.errors import UsageError

_NUMBER = re.compile(r"\s*(\d{1,18}(?:\.\d{0,9})?|\.\d{1,9})\s*([a-zA-Z]*)\s*", re.ASCII)
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_BYTE_NAMES = {"": 1, "b": 1} | {
    spelling: factor
    for name, factor in _BYTES.items()
    for spelling in (name.lower(), name[0].lower())
}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def _split(text: str, what: str, remedy: str) -> tuple[str, str]:
    """A number and the letters after it."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no {what}", remedy)
    return found[1], found[2]


def parse_bytes(text: str) -> int:
    """The bytes that a size such as "8", "4K", "64MiB" or "1.5G" means.

    Raises:
        UsageError: it is no size, a unit is unknown, or it isn't a positive whole number of bytes.
    """
    remedy = "write a size like 8, 4K, 1M or 64MiB (binary units: 4K is 4096 bytes)"
    number, unit = _split(text, "size", remedy)
    factor = _BYTE_NAMES.get(unit.lower())
    if factor is None:
        raise UsageError(f"{text!r} has no known unit of size", remedy)
    size = float(number) * factor if "." in number else int(number) * factor
    if size < 1 or size != int(size):
        raise UsageError(f"{text!r} is not a positive whole number of bytes", remedy)
    return int(size)


def parse_bytes_list(text: str) -> list[int]:
    """The sizes of a list such as "8,4K,1M", in its order.

    Raises:
        UsageError: one of them is no size.
    """
    return [parse_bytes(part) for part in text.split(",")]


def format_bytes(size_bytes: int) -> str:
    """A size with its unit: exact for whole KiB, MiB and so on, else three digits."""
    name, factor = next(
        (name, factor)
        for name, factor in reversed(_BYTES.items())
        if size_bytes >= factor or factor == 1
    )
    if size_bytes % factor == 0:
        return f"{size_bytes // factor} {name}"
    return f"{_three_digits(size_bytes / factor)} {name}"


def parse_duration(text: str) -> float:
    """The seconds that a duration such as "90", "1.5ms", "3.1 us" or "2min" means.

    Raises:
        UsageError: it is no duration, or its unit is unknown.
    """
    remedy = "write a duration like 90, 90s, 2min or 1.5ms"
    number, unit = _split(text, "duration", remedy)
    factor = _SECONDS.get(unit or "s")
    if factor is None:
        raise UsageError(f"{text!r} has no known unit of time", remedy)
    return float(number) * factor


def format_duration(seconds: float) -> str:
    """A duration in ns, us, ms or s, with three digits: "47.2 ns", "3.1 us"."""
    return _scaled(seconds, {name: _SECONDS[name] for name in ("ns", "us", "ms", "s")})


def format_rate(bytes_per_second: float) -> str:
    """A bandwidth in decimal units, with three digits: "9.3 GB/s"."""
    return _scaled(
        bytes_per_second, {f"{prefix}B/s": factor for prefix, factor in _DECIMAL.items()}
    )


def format_frequency(per_second: float) -> str:
    """How often a second something happens, with three digits: "21.4 M/s"."""
    return _scaled(per_second, {f"{prefix}/s": factor for prefix, factor in _DECIMAL.items()})


def _scaled(value: float, units: dict[str, float]) -> str:
    """The value in the largest unit (they ascend) that leaves at least 1 before the point."""
    rounded = float(f"{value:.3g}")  # 999.9 ns is 1 us
    chosen = next(iter(units))
    for name, factor in units.items():
        if abs(rounded) >= factor:
            chosen = name
    return f"{_three_digits(rounded / units[chosen])} {chosen}"


def _three_digits(value: float) -> str:
    """Three significant digits, without an exponent and without trailing zeros."""
    short = f"{value:.3g}"
    return short if "e" not in short else f"{float(short):.10g}"
