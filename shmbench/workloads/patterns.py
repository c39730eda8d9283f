"""The order in which a file is read: offsets in bytes, the same ones for every policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shmbench.errors import UsageError
from shmbench.registry import nearest
from shmbench.units import parse_bytes

Offsets = npt.NDArray[np.int64]

NAMES = ("sequential", "reverse", "strided", "streams", "random", "zipf")
_SEED = 20170711
_ZIPF_EXPONENT = 0.99  # that of YCSB
_STRIDE_BYTES = 1 << 20
_STREAMS = 4


def sequential(size_bytes: int, length: int) -> Offsets:
    """Each block of `length` bytes from the first on; a shorter rest is left out."""
    return np.arange(0, size_bytes - length + 1, length, dtype=np.int64)


def reverse(size_bytes: int, length: int) -> Offsets:
    """Each block from the last on."""
    return np.ascontiguousarray(sequential(size_bytes, length)[::-1])


def strided(size_bytes: int, length: int, stride_bytes: int) -> Offsets:
    """A block at every multiple of the stride."""
    return np.arange(0, size_bytes - length + 1, stride_bytes, dtype=np.int64)


def streams(size_bytes: int, length: int, count: int) -> Offsets:
    """So many sequential streams over parts of the file, of which each takes a block in turn."""
    part = size_bytes // length // count * length
    starts = np.arange(count, dtype=np.int64) * part
    steps = np.arange(0, part, length, dtype=np.int64)
    return (steps[:, None] + starts[None, :]).ravel()


def random(size_bytes: int, length: int, count: int) -> Offsets:
    """So many blocks (all, where there are fewer), each once, in random order."""
    blocks = size_bytes // length
    generator = np.random.default_rng(_SEED)
    chosen = generator.choice(blocks, size=min(count, blocks), replace=False, shuffle=True)
    return np.asarray(chosen, np.int64) * length


def zipf(size_bytes: int, length: int, count: int) -> Offsets:
    """So many blocks, some often and most hardly ever: by Zipf's law, spread over the file."""
    blocks = size_bytes // length
    generator = np.random.default_rng(_SEED)
    shares = np.cumsum(1.0 / np.arange(1, blocks + 1) ** _ZIPF_EXPONENT)
    ranks = np.searchsorted(shares, generator.random(count) * shares[-1])
    return np.asarray(generator.permutation(blocks)[ranks], np.int64) * length


def trace(path: Path, size_bytes: int, length: int) -> Offsets:
    """Offsets that somebody recorded: a .npy file, or a text file with one on a line.

    Args:
        path: of the trace.
        size_bytes: of the file that was read.
        length: of each access.

    Raises:
        UsageError: it can't be read, is empty, or leads beyond the file's end.
    """
    remedy = "give a .npy array of integers, or a text file with one offset in bytes on a line"
    try:
        if path.suffix == ".npy":
            found = np.load(path, allow_pickle=False)
        else:
            found = np.array([int(word) for word in path.read_text().split()], np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"trace {path}: {error}", remedy) from error
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer) or found.size == 0:
        raise UsageError(f"trace {path}: {found.dtype} of shape {found.shape}", remedy)
    if found.min() < 0 or found.max() > size_bytes - length:
        raise UsageError(
            f"trace {path}: it leads from {found.min()} to {found.max()}, where a file of "
            f"{size_bytes} bytes has no {length} bytes",
            "give the trace that belongs to this file",
        )
    return np.ascontiguousarray(found, dtype=np.int64)


def _streams_of(argument: str) -> int:
    if argument and (not argument.isdecimal() or int(argument) == 0):
        raise UsageError(f"pattern streams:{argument}", "give a number of streams, as in streams:8")
    return int(argument or _STREAMS)


def named(pattern: str, size_bytes: int, length: int, count: int) -> Offsets:
    """The offsets of a pattern as `shmbench tune` takes it.

    Args:
        pattern: one of NAMES, "strided:STEP", "streams:N", or the path of a trace.
        count: how many accesses a random pattern has.

    Raises:
        UsageError: no such pattern, or a step or a trace that doesn't fit the file.
    """
    name, _, argument = pattern.partition(":")
    if name == "strided":
        return strided(size_bytes, length, parse_bytes(argument) if argument else _STRIDE_BYTES)
    if name == "streams":
        return streams(size_bytes, length, _streams_of(argument))
    if pattern == "sequential":
        return sequential(size_bytes, length)
    if pattern == "reverse":
        return reverse(size_bytes, length)
    if pattern == "random":
        return random(size_bytes, length, count)
    if pattern == "zipf":
        return zipf(size_bytes, length, count)
    if not Path(pattern).is_file():
        raise UsageError(
            f"pattern {pattern!r} is neither a name nor a trace's file", nearest(pattern, NAMES)
        )
    return trace(Path(pattern), size_bytes, length)
