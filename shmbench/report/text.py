"""What a result says, as text: the same words on a terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median as middle

from shmbench.measure.flags import Flag
from shmbench.results import Result
from shmbench.speedup import Speedup
from shmbench.units import format_bytes, format_duration, format_frequency, format_rate

DRIVERS = {
    "native": "native: the loop is compiled and holds no GIL; what hardware and kernel can do",
    "python": "python: the loop is Python; what a Python program gets",
}

# Messages shorter than this are limited by their number, longer ones by their bytes.
_SHORT_BYTES = 1024


def size(result: Result) -> str:
    """The message's size with its unit; empty where there are no messages."""
    return "" if result.message_bytes is None else format_bytes(result.message_bytes)


def median(result: Result) -> str:
    """The headline with its unit; empty where the case failed."""
    return "" if result.median is None else format_duration(result.median)


def spread(result: Result) -> str:
    """The interval of the median, relative to it: "-1 +3 %"."""
    if result.ci is None or not result.median:
        return ""
    low, high = (round(100 * (end / result.median - 1)) for end in result.ci)
    return f"{low:+d} {high:+d} %" if low else f"-0 {high:+d} %"


def interval(result: Result) -> str:
    """The interval of the median with its unit: "54.1 ns to 56.3 ns"."""
    return "" if result.ci is None else " to ".join(format_duration(end) for end in result.ci)


def percentile(result: Result, name: str) -> str:
    """One percentile of single operations with its unit; empty where it was not measured."""
    value = (result.percentiles or {}).get(name)
    return "" if value is None else format_duration(value)


def byte_rate(result: Result) -> str:
    """Payload bytes a second; empty where none move."""
    return "" if result.bytes_per_second is None else format_rate(result.bytes_per_second)


def operation_rate(result: Result) -> str:
    """Operations a second, where bytes move; empty elsewhere."""
    if result.bytes_per_second is None or not result.median:
        return ""
    return format_frequency(1 / result.median)


def rate(result: Result) -> str:
    """Messages a second of short ones, bytes a second of long ones."""
    short = result.message_bytes is not None and result.message_bytes < _SHORT_BYTES
    return operation_rate(result) if short else byte_rate(result)


def of_limit(result: Result) -> str:
    """How far from the hardware: "1.05x" the time, or "93 %" of the bandwidth."""
    limit = result.limit
    if limit is None or limit.ratio <= 0:
        return ""
    if result.bytes_per_second is not None:
        return f"{100 / limit.ratio:.0f} %"
    return f"{limit.ratio:.2f}x" if limit.ratio < 10 else f"{limit.ratio:.0f}x"


def figure(result: Result, name: str) -> str:
    """One of the result's further figures: the median over groups, as a share or a duration."""
    values = result.figures.get(name)
    if not values:
        return ""
    value = middle(values)
    return f"{100 * value:.0f} %" if name.endswith("_share") else format_duration(value)


def further(result: Result) -> str:
    """All of them, by name."""
    return ", ".join(
        f"{name.rpartition('_')[0].replace('_', ' ')} {figure(result, name)}"
        for name in result.figures
    )


def region(result: Result) -> str:
    """The region, its directory, and its pages where they are not prefaulted small ones."""
    pages = None if result.pages == "prefault" else result.pages
    return " ".join(part for part in (result.region, result.directory, pages) if part)


def filesystem(result: Result) -> str:
    """The file system of the mapped file, else what kind of memory it is."""
    return str((result.evidence or {}).get("filesystem") or result.region or "")


def mount(result: Result) -> str:
    """The file system of the mapped file and its options: "ext4 (rw,relatime)"."""
    options = (result.evidence or {}).get("mount_options")
    return f"{filesystem(result)} ({options})" if options else filesystem(result)


def file_size(result: Result) -> str:
    """Of the mapped file or memory, with its unit; empty where none is mapped."""
    return "" if result.file_bytes is None else format_bytes(result.file_bytes)


def where(result: Result) -> str:
    """The named placement, and the CPUs that it came to."""
    cpus = ",".join(str(cpu) for cpu in result.cpus)
    return result.placement if cpus in ("", result.placement) else f"{result.placement} ({cpus})"


def ratio(found: Speedup) -> str:
    """How many times faster: "1.42 (1.38 to 1.47)"."""
    if found.interval is None:
        return times(found.ratio)
    return f"{times(found.ratio)} ({' to '.join(times(end) for end in found.interval)})"


def times(value: float) -> str:
    """A ratio, to three digits at most: "0.04", "1.42", "12.3", "130"."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def conditions(result: Result) -> list[str]:
    """Under what the figure was obtained, one short phrase each, of what applies."""
    phrases = [
        (result.region, f"region {result.region}"),
        (result.directory, f"in {result.directory}"),
        (result.pages, f"pages {result.pages}"),
        (result.numa not in (None, "local"), f"NUMA memory {result.numa}"),
        (result.policy, f"policy {result.policy}"),
        (result.cache, f"{result.cache} cache"),
        (result.ranks, f"{result.ranks} ranks"),
        (result.placement, f"placement {where(result)}"),
        (result.first_touch is not None, f"first touched by rank {result.first_touch}"),
        (result.window, f"window {result.window}"),
        (result.groups, f"{result.groups} process group{'s' if result.groups > 1 else ''}"),
        (result.launcher == "mpi", "launched by MPI"),
    ]
    return [phrase for there, phrase in phrases if there]


def legend(flags: Iterable[str]) -> list[tuple[str, str, str]]:
    """(flag, what it means, what would cure it), of each flag once; own ones before strangers."""
    seen = set(flags)
    known = [(flag.value, flag.text, flag.hint) for flag in Flag if flag.value in seen]
    strangers = sorted(seen - {flag.value for flag in Flag})
    return known + [(flag, "a flag that this version does not know", "") for flag in strangers]
