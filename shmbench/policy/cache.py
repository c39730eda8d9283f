"""The mapping cache: a closed file's mapping stays, with its page tables, for a fast reopen.

The technique of Choi, Kim, Han (HotStorage 2017), in user space. A hit costs one stat(2), and no
fault. It pays where the same files, in memory, are opened again and again. A parked mapping costs a
descriptor and 8 bytes of page table for each 4 KiB, and keeps the space of a deleted file from
being freed until it is evicted or forgotten.
"""

import errno
import os
import threading
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np

from shmbench.native.filemap import FileMap, identify
from shmbench.native.memory import PAGE_BYTES, mincore
from shmbench.policy.cached_mapping import CachedMapping, Entry, FilePath
from shmbench.policy.pressure import PressureWatch, pressure_file
from shmbench.policy.shelf import CacheStats, Shelf

Mode = Literal["r", "r+"]
_WRITABLE = {"r": False, "r+": True}


class MappingCache:
    """Mappings of files that were closed, to be opened again.

    Both limits hold at every moment, for the mappings in use and the parked ones together. What is
    in use can't be evicted; so where all is in use, a further file is mapped outside of the cache
    and unmapped when it is closed, as is a file larger than `max_bytes`.

    A file is found by device, inode and mode, so by any of its names. Permissions are checked when
    it is mapped, not at a hit, as with a file that was kept open. Safe with threads. A forked child
    has the parked mappings too; what was in use at the fork stays good for those who have it, and
    is unmapped, not parked, when they close it.

    Args:
        max_bytes: of addresses mapped, in whole pages.
        max_entries: mappings, each with a file descriptor.
        watch_pressure: give up the older half whenever the kernel says that memory is short.

    Raises:
        ValueError: a limit below 0.
    """

    def __init__(
        self, max_bytes: int = 4 << 30, max_entries: int = 256, *, watch_pressure: bool = True
    ) -> None:
        if max_bytes < 0 or max_entries < 0:
            raise ValueError(f"can't keep {max_entries} mappings of {max_bytes} bytes")
        self._shelf = Shelf(max_bytes, max_entries)
        self._lock = threading.Lock()
        self._abandoned: deque[Entry] = deque()
        self._closed = False
        self._pressure = pressure_file() if watch_pressure else None
        self._watch: PressureWatch | None = None
        with _fork_lock:
            _caches.add(self)

    def open(self, path: FilePath, mode: Mode = "r") -> CachedMapping:
        """The file mapped as a whole, from the cache where it is there and still fits.

        Args:
            path: of a regular file.
            mode: "r", or "r+" to write to it too. Writes reach the file, as with MAP_SHARED.

        Raises:
            OSError: with the path.
            ValueError: another mode, or the cache is closed.
        """
        try:
            identity, size = identify(path, _WRITABLE[mode])
        except FileNotFoundError:
            with self._lock:
                self._shelf.drop_other((os.fspath(path), _WRITABLE[mode]), None)
            raise
        except KeyError:
            raise ValueError(f"mode {mode!r} is neither 'r' nor 'r+'") from None
        with self._lock:
            shelf = self._shelf
            entry = shelf.table.get(identity)
            if entry is not None and (entry.file.size == size or shelf.resize(entry, size)):
                shelf.take(entry)
                return CachedMapping(self, entry)
        return self._map(path, _WRITABLE[mode])

    def evict(self, bytes_wanted: int | None = None) -> int:
        """Unmap what is parked, the least recently used first.

        Args:
            bytes_wanted: stop once so many are released; None: all that is parked.

        Returns:
            How many bytes were released, in whole pages.
        """
        released = 0
        while bytes_wanted is None or released < bytes_wanted:
            length = self._evict_oldest()
            if length is None:
                break
            released += length
        return released

    def relieve(self) -> int:
        """Unmap the older half of what is parked; gives how many bytes. For memory pressure."""
        half = (len(self._shelf.parked) + 1) // 2
        return sum(self._evict_oldest() or 0 for _ in range(half))

    def forget(self, path: FilePath) -> None:
        """Don't find this file again: unmap it now if it is parked, else when it is closed."""
        for writable in _WRITABLE.values():
            identity = None
            with suppress(OSError):
                identity, _ = identify(path, writable)
            with self._lock:
                self._collect()
                by_name = self._shelf.named((os.fspath(path), writable))
                by_identity = None if identity is None else self._shelf.table.get(identity)
                for entry in {by_name, by_identity}:
                    if entry is not None:
                        self._shelf.let_go(entry)

    def clear(self) -> None:
        """Forget all files."""
        with self._lock:
            self._collect()
            for entry in list(self._shelf.table.values()):
                self._shelf.let_go(entry)

    def close(self) -> None:
        """Forget all files and open no more; idempotent. What is in use stays good."""
        self._closed = True
        self.clear()
        with self._lock:
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()

    def stats(self) -> CacheStats:
        """What it did and holds, all at one moment but for `bytes_resident`, which comes after."""
        with self._lock:
            self._collect()
            # The views keep it mapped when the lock is free again.
            files = [entry.file for entry in self._shelf.table.values()]
            held = [(file.address, file.view()) for file in files]
            stats = self._shelf.stats()
        pages = sum(
            np.count_nonzero(np.frombuffer(mincore(address, len(view)), np.uint8) & 1)
            for address, view in held
            if view
        )
        return replace(stats, bytes_resident=int(pages) * PAGE_BYTES)

    def take_back(self, handle: CachedMapping) -> None:
        """What `CachedMapping.close` does."""
        with self._lock:
            entry = handle.entry
            if entry is not None:
                handle.entry = None
                self._shelf.give_back(entry)

    def abandon(self, entry: Entry) -> None:
        """A handle was dropped without `close`. From a finalizer, so it must not lock."""
        self._abandoned.append(entry)

    def _evict_oldest(self) -> int | None:
        # One at a time, so that other threads' hits get in between: a large unmap takes long.
        with self._lock:
            self._collect()
            for entry in self._shelf.parked.values():
                return self._shelf.evict(entry)
        return None

    def _map(self, path: FilePath, writable: bool) -> CachedMapping:
        # What may wait for a server happens without the lock; what makes room, and the mapping for
        # which it does, within: so the limits hold at every moment.
        file = self._open_file(path, writable)
        shelf, size = self._shelf, file.size
        try:
            with self._lock:
                if self._closed:
                    raise ValueError("the mapping cache is closed")
                self._collect()
                name = (os.fspath(path), writable)
                shelf.drop_other(name, file.identity)
                entry = shelf.table.get(file.identity)
                if entry is not None and (entry.file.size == size or shelf.resize(entry, size)):
                    file.close()  # another thread was faster
                    shelf.take(entry)
                else:
                    entry = shelf.add(file, name)
                    self._listen()
                return CachedMapping(self, entry)
        except BaseException:
            file.close()
            raise

    def _open_file(self, path: FilePath, writable: bool) -> FileMap:
        try:
            return FileMap(path, writable)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self.evict()  # each parked mapping has a descriptor
        return FileMap(path, writable)

    # All below is called with the lock held.

    def _collect(self) -> None:
        """Take back what was dropped without `close`."""
        while self._abandoned:
            self._shelf.give_back(self._abandoned.popleft())

    def _listen(self) -> None:
        if self._watch is not None or self._pressure is None:
            return
        myself = weakref.ref(self)  # the thread must not keep the cache alive

        def on_pressure() -> None:
            cache = myself()
            if cache is not None:
                cache.relieve()

        # Without a descriptor or a thread to spare, it is tried again at the next miss.
        with suppress(OSError, RuntimeError):
            self._watch = PressureWatch(on_pressure, self._pressure)
            # Not at exit: then the process's end does it, and nobody waits for the kernel.
            weakref.finalize(self, self._watch.stop).atexit = False

    def _start_in_child(self) -> None:
        self._lock = threading.Lock()
        if self._watch is not None:
            self._watch.forsake()
            self._watch = None
        self._collect()
        # Some of their users are threads that are not in the child, and would never close them.
        for entry in [entry for entry in self._shelf.table.values() if entry.users]:
            self._shelf.drop(entry)


@cache
def shared_cache() -> MappingCache:
    """The process's own mapping cache, with the default limits: what Hint.KEEP parks in."""
    return MappingCache()


_caches: weakref.WeakSet[MappingCache] = weakref.WeakSet()
_fork_lock = threading.Lock()  # guards _caches; held through a fork
_held: list[MappingCache] = []  # whose locks are held through a fork


def _before_fork() -> None:
    _fork_lock.acquire()
    for each in list(_caches):
        each._lock.acquire()
        _held.append(each)


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()._lock.release()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _fork_lock
    while _held:
        _held.pop()._start_in_child()
    _fork_lock = threading.Lock()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
