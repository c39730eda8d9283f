"""Policies over mapped memory: map-ahead, mapping cache, hints. Needs nothing of the benchmarks.

>>> from shmbench import policy
>>> with policy.open("data.bin") as mapping:
...     header = mapping.read(0, 4096)
...     blocks = sum(1 for block in mapping.blocks(1 << 20))
"""

from __future__ import annotations

import os
from functools import cache as once
from typing import Any, Literal

from shmbench.policy import backing as _backing
from shmbench.policy.cache import MappingCache
from shmbench.policy.hints import Hint, HintLike, OnRefusal, Refusal, hint_of, strided
from shmbench.policy.mapping import Mapping, Policy
from shmbench.policy.memmap import PolicyMemmap, memmap
from shmbench.policy.settings import Ahead
from shmbench.policy.stats import MappingStats
from shmbench.policy.watch import Watch, WatchSource

__all__ = [
    "Ahead",
    "Hint",
    "HintLike",
    "Mapping",
    "MappingCache",
    "MappingStats",
    "OnRefusal",
    "Policy",
    "PolicyMemmap",
    "Refusal",
    "Watch",
    "WatchSource",
    "attach",
    "memmap",
    "open",
    "shared_cache",
    "strided",
]

Mode = Literal["r", "r+", "w+", "c"]


@once
def shared_cache() -> MappingCache:
    """The mapping cache of this process that the hint "keep" parks mappings in."""
    return MappingCache()


def open(
    path: str | os.PathLike[str],
    mode: Mode = "r",
    *,
    size: int | None = None,
    hint: Policy = "auto",
    cache: MappingCache | None = None,
    watch: Watch = False,
    ahead: Ahead | None = None,
    on_refusal: OnRefusal = "raise",
) -> Mapping:
    """Map a whole file, with a policy behind it.

    Args:
        path: of a regular file.
        mode: "r"; "r+": written to; "w+": made anew with `size` bytes, all of them reserved;
            "c": written to in memory only.
        size: of the new file in bytes; for "w+" only.
        hint: what is known of the accesses; "auto": nothing, find out. See `Mapping`.
        cache: to take the mapping from and park it in on close; "keep" uses `shared_cache()`.
        watch: also see accesses through `ndarray`: True, or the source "scan", "pagemap" or
            "userfaultfd" (shared memory only; it has a price, see `watch.Watcher`).
        ahead: how far to fetch ahead.
        on_refusal: what to do when the kernel refuses the hint.

    Raises:
        OSError: with the path; ENOSPC: no room for a new file.
        ValueError: no such mode, or a size without "w+".
    """
    if mode not in ("r", "r+", "w+", "c") or (size is None) == (mode == "w+"):
        raise ValueError(f"mode {mode!r} with size {size}")
    name = os.fspath(path)
    if size is not None:
        _create(name, size)
    if cache is None and hint != "map_ahead" and hint != "populate" and hint_of(hint) is Hint.KEEP:
        cache = shared_cache()
    if mode == "c":
        opened = _backing.private_copy(name)
    elif cache is not None:
        opened = _backing.cached_file(name, mode != "r", cache)
    else:
        opened = _backing.whole_file(name, mode != "r")
    return Mapping(opened, hint=hint, ahead=ahead, watch=watch, on_refusal=on_refusal)


def attach(
    buffer: Any,
    *,
    hint: Policy = "auto",
    watch: Watch = False,
    ahead: Ahead | None = None,
    on_refusal: OnRefusal = "raise",
) -> Mapping:
    """A policy over memory that is mapped already: a region's, a mmap.mmap, a memmap, an array.

    It belongs to its owner: closing the Mapping unmaps nothing, and it doesn't grow. Until then its
    read-ahead is what suits the reads that go through the Mapping; `watch` sees the others too.

    Args:
        buffer: anything with `memory` and `address`, or any contiguous buffer.
        hint: as for `open`, as are watch, ahead and on_refusal.
        watch: also see accesses that don't go through the Mapping; as for `open`.
        ahead: how far to fetch ahead.
        on_refusal: what to do when the kernel refuses the hint.

    Raises:
        TypeError: it is no contiguous buffer.
        OSError: as `open`.
    """
    opened = _backing.buffer(buffer)
    return Mapping(opened, hint=hint, ahead=ahead, watch=watch, on_refusal=on_refusal)


def _create(path: str, size: int) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise OSError(error.errno, f"no room for {size} bytes: {error.strerror}", path) from error
    finally:
        os.close(fd)
