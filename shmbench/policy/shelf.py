"""What the mapping cache holds: the table, who is parked since when, the limits and the counters.

Nothing here locks, opens a file or waits; the cache calls it with its lock held.
"""

import errno
from collections import OrderedDict
from dataclasses import dataclass

from shmbench.native.filemap import FileMap
from shmbench.policy.cached_mapping import Entry, Name
from shmbench.policy.hints import Hint, Lasting, advise

Identity = tuple[int, int, bool]  # device, inode, whether it is mapped for writing


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a mapping cache did and holds.

    Attributes:
        hits: opens that got a mapping that was there.
        misses: opens that had to map; hits + misses are all opens that succeeded.
        stale: mappings that no longer fitted their path when it was opened: file replaced, removed,
            shrunk or grown. A mapping that could be resized still counts as a hit.
        evictions: parked mappings unmapped for want of room, under memory pressure or on request.
        uncached: misses whose mapping stays outside, because all that is inside is in use.
        entries: mappings inside, in use or parked.
        in_use: those of them that somebody has open.
        bytes_mapped: their addresses, in whole pages.
        bytes_resident: how much of that is in the page cache; all of it, says the kernel, where
            the file is neither ours nor writable to us (mincore(2)).
        entries_peak: the most entries there ever were.
        bytes_peak: the most bytes_mapped there ever were.
    """

    hits: int
    misses: int
    stale: int
    evictions: int
    uncached: int
    entries: int
    in_use: int
    bytes_mapped: int
    bytes_resident: int
    entries_peak: int
    bytes_peak: int


class Shelf:
    """Entries in use and parked ones, within two limits.

    Args:
        max_bytes: of addresses mapped, in whole pages.
        max_entries: mappings.

    Attributes:
        table: all entries, by identity.
        parked: those that nobody uses, the least recently used first.
    """

    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.table: dict[Identity, Entry] = {}
        self.parked: OrderedDict[Identity, Entry] = OrderedDict()
        self._names: dict[Name, Identity] = {}
        self._bytes = 0
        self._hits = self._misses = self._stale = self._evictions = self._uncached = 0
        self._entries_peak = self._bytes_peak = 0

    def stats(self) -> CacheStats:
        """All but `bytes_resident`, which is left 0."""
        return CacheStats(
            hits=self._hits,
            misses=self._misses,
            stale=self._stale,
            evictions=self._evictions,
            uncached=self._uncached,
            entries=len(self.table),
            in_use=len(self.table) - len(self.parked),
            bytes_mapped=self._bytes,
            bytes_resident=0,
            entries_peak=self._entries_peak,
            bytes_peak=self._bytes_peak,
        )

    def take(self, entry: Entry) -> None:
        """A hit: one user more."""
        self.parked.pop(entry.identity, None)
        entry.users += 1
        self._hits += 1

    def give_back(self, entry: Entry) -> None:
        """One user less; the last one parks it, or unmaps what the table does not hold."""
        entry.users -= 1
        if entry.users:
            return
        if entry.inside and entry.lasting:
            self._undo_hints(entry)
        if entry.inside:
            self.parked[entry.identity] = entry
        else:
            entry.file.close()

    def add(self, file: FileMap, name: Name) -> Entry:
        """A miss: map the file, inside where there is or can be made room, with its first user.

        Raises:
            OSError: it can't be mapped.
        """
        inside = self._make_room(1, file.length_for(file.size))
        try:
            file.map()
        except OSError as error:
            if error.errno != errno.ENOMEM or not self.parked:
                raise
            for parked in list(self.parked.values()):  # too many mappings, or ulimit -v
                self.evict(parked)
            file.map()
        entry = Entry(file, name, inside)
        self._misses += 1
        if inside:
            self.table[entry.identity] = entry
            self._names[name] = entry.identity
            self._grow(file.length)
        else:
            self._uncached += 1
        return entry

    def resize(self, entry: Entry, size: int) -> bool:
        """Fit it to its file's new size; where that can't be, drop it and give False."""
        file = entry.file
        self._stale += 1
        if not entry.users:
            self.parked.pop(entry.identity, None)  # not to be evicted for its own sake
        growth = file.length_for(size) - file.length
        if self._make_room(0, growth) and file.resize(size, may_move=not entry.users):
            self._grow(growth)
            return True
        self.drop(entry)
        return False

    def named(self, name: Name) -> Entry | None:
        """What was mapped by this name, whatever it leads to now."""
        identity = self._names.get(name)
        return None if identity is None else self.table[identity]

    def drop_other(self, name: Name, identity: Identity | None) -> None:
        """Drop what a name led to before it led to `identity`, or to nothing."""
        before = self.named(name)
        if before is not None and before.identity != identity:
            self._stale += 1
            self.drop(before)

    def drop(self, entry: Entry) -> None:
        """Take it out; its users, if there are any, keep it until the last has closed it."""
        del self.table[entry.identity]
        self.parked.pop(entry.identity, None)
        if self._names.get(entry.name) == entry.identity:
            del self._names[entry.name]
        self._bytes -= entry.file.length
        entry.inside = False
        if not entry.users:
            entry.file.close()

    def evict(self, entry: Entry) -> int:
        """Drop a parked one, and count it. Returns its bytes, in whole pages."""
        length = entry.file.length
        self._evictions += 1
        self.drop(entry)
        return length

    def let_go(self, entry: Entry) -> None:
        """Evict it if it is parked, else drop it."""
        if entry.users:
            self.drop(entry)
        else:
            self.evict(entry)

    def _make_room(self, entries: int, length: int) -> bool:
        """Evict as many as it takes, or none where even all that is parked would not do."""
        entries_over = len(self.table) + entries - self.max_entries
        bytes_over = self._bytes + length - self.max_bytes
        victims = []
        for entry in self.parked.values():
            if entries_over <= 0 and bytes_over <= 0:
                break
            victims.append(entry)
            entries_over -= 1
            bytes_over -= entry.file.length
        if entries_over > 0 or bytes_over > 0:
            return False
        for entry in victims:
            self.evict(entry)
        return True

    def _grow(self, length: int) -> None:
        self._bytes += length
        self._bytes_peak = max(self._bytes_peak, self._bytes)
        self._entries_peak = max(self._entries_peak, len(self.table))

    def _undo_hints(self, entry: Entry) -> None:
        if entry.lasting is Lasting.READ_AHEAD:
            advise(entry.file.address, entry.file.length, Hint.NORMAL)
            entry.lasting = Lasting.NO
        else:
            self.drop(entry)
