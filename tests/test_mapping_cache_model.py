"""The mapping cache against a model of it: the same counters and mappings after any trace."""

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shmbench.native.memory import PAGE_BYTES as PAGE
from shmbench.policy.cache import MappingCache, Mode
from shmbench.policy.cached_mapping import CachedMapping

NAMES = st.sampled_from("abcd")
MODES = st.sampled_from(["r", "r+"])
SIZES = st.sampled_from([0, 1, PAGE, PAGE + 1, 3 * PAGE])
MAX_BYTES, MAX_ENTRIES = 5 * PAGE, 3


def pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


@dataclass
class File:
    """An inode."""

    size: int
    name: str
    removed: bool = False


@dataclass(eq=False)
class Held:
    """A mapping."""

    file: File
    mode: Mode
    size: int
    inside: bool
    users: int = 1


@dataclass
class Model:
    """What the documentation of MappingCache says, in the plainest words."""

    entries: list[Held] = field(default_factory=list)  # in use or parked
    parked: list[Held] = field(default_factory=list)  # the least recently used first
    outside: list[Held] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def open(self, file: File, mode: Mode) -> Held:
        self.drop_other(file.name, mode, file)
        found = [held for held in self.entries if (held.file, held.mode) == (file, mode)]
        if found and (found[0].size == file.size or self.resize(found[0], file.size)):
            if not found[0].users:
                self.parked.remove(found[0])
            found[0].users += 1
            self.counts["hits"] += 1
            return found[0]
        self.counts["misses"] += 1
        held = Held(file, mode, file.size, inside=self.make_room(1, pages(file.size)))
        self.counts["uncached"] += not held.inside
        (self.entries if held.inside else self.outside).append(held)
        return held

    def close(self, held: Held) -> None:
        held.users -= 1
        if not held.users:
            (self.parked.append if held.inside else self.outside.remove)(held)

    def resize(self, held: Held, size: int) -> bool:
        self.counts["stale"] += 1
        others = [parked for parked in self.parked if parked is not held]
        possible = not held.users or (pages(size) == pages(held.size) and size > held.size)
        same = pages(size) == pages(held.size)
        if (
            self.make_room(0, pages(size) - pages(held.size), others)
            and possible
            and (same or (size and held.size))
        ):
            held.size = size
            return True
        self.drop(held)
        return False

    def make_room(self, entries: int, length: int, among: list[Held] | None = None) -> bool:
        victims: list[Held] = []
        for victim in [*(self.parked if among is None else among), None]:
            left = [held for held in self.entries if held not in victims]
            if (
                len(left) + entries <= MAX_ENTRIES
                and sum(pages(held.size) for held in left) + length <= MAX_BYTES
            ):
                for each in victims:
                    self.evict(each)
                return True
            if victim is not None:
                victims.append(victim)
        return False

    def drop_other(self, name: str, mode: Mode, file: File | None) -> None:
        for held in [*self.entries]:
            if (held.file.name, held.mode) == (name, mode) and held.file is not file:
                self.counts["stale"] += 1
                self.drop(held)

    def drop(self, held: Held) -> None:
        self.entries.remove(held)
        held.inside = False
        if held.users:
            self.outside.append(held)
        else:
            self.parked.remove(held)

    def evict(self, held: Held) -> None:
        self.counts["evictions"] += 1
        self.drop(held)

    def let_go(self, held: Held) -> None:
        (self.drop if held.users else self.evict)(held)


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mapping_cache_"))
        self.cache = MappingCache(MAX_BYTES, MAX_ENTRIES, watch_pressure=False)
        self.model = Model()
        self.files: dict[str, File] = {}
        self.lent: list[tuple[CachedMapping, Held]] = []

    def teardown(self) -> None:
        for mapping, _ in self.lent:
            mapping.close()
        self.cache.close()
        assert self.mapped() == Counter()
        shutil.rmtree(self.folder)

    def mapped(self) -> Counter[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return Counter(line.rpartition("/")[2] for line in lines if f" {self.folder}/" in line)

    @rule(name=NAMES, size=SIZES)
    def replace(self, name: str, size: int) -> None:
        fresh = self.folder / "fresh"
        fresh.write_bytes(name.encode() * size)
        fresh.rename(self.folder / name)
        if name in self.files:
            self.files[name].removed = True
        self.files[name] = File(size, name)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        if name in self.files:
            (self.folder / name).unlink()
            self.files.pop(name).removed = True

    @rule(name=NAMES, size=SIZES)
    def resize(self, name: str, size: int) -> None:
        file = self.files.get(name)
        # Whether a mapping in use can grow where it is, is up to the kernel.
        if file and (size < file.size or all(held.file is not file for _, held in self.lent)):
            with open(self.folder / name, "r+b") as content:
                content.truncate(size)
            file.size = size

    @rule(name=NAMES, mode=MODES)
    def open(self, name: str, mode: Mode) -> None:
        path = self.folder / name
        if name not in self.files:
            with pytest.raises(FileNotFoundError):
                self.cache.open(path, mode)
            self.model.drop_other(name, mode, None)
            return
        mapping = self.cache.open(path, mode)
        assert mapping.memory == path.read_bytes()
        self.lent.append((mapping, self.model.open(self.files[name], mode)))

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        mapping, held = self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1)))
        assert mapping.cached == held.inside
        mapping.close()
        self.model.close(held)

    @rule(wanted=st.integers(1, 3 * PAGE))
    def evict(self, wanted: int) -> None:
        released = 0
        while self.model.parked and released < wanted:
            released += pages(self.model.parked[0].size)
            self.model.evict(self.model.parked[0])
        assert self.cache.evict(wanted) == released

    @rule(name=NAMES)
    def forget(self, name: str) -> None:
        self.cache.forget(self.folder / name)
        for held in [held for held in self.model.entries if held.file.name == name]:
            self.model.let_go(held)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        for held in [*self.model.entries]:
            self.model.let_go(held)

    @invariant()
    def agrees(self) -> None:
        stats, model = self.cache.stats(), self.model
        for name in ("hits", "misses", "stale", "evictions", "uncached"):
            assert getattr(stats, name) == model.counts[name], name
        assert stats.entries == len(model.entries) <= MAX_ENTRIES
        assert stats.in_use == len(model.entries) - len(model.parked)
        assert stats.bytes_mapped == sum(pages(held.size) for held in model.entries) <= MAX_BYTES
        assert stats.entries_peak <= MAX_ENTRIES
        assert stats.bytes_peak <= MAX_BYTES
        assert self.mapped() == Counter(
            held.file.name + " (deleted)" * held.file.removed
            for held in model.entries + model.outside
            if held.size
        )


TestMappingCacheAgainstItsModel = CacheMachine.TestCase
TestMappingCacheAgainstItsModel.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
