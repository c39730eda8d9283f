"""The policies of `shmbench.policy`, as its users write them."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

import numpy as np

from shmbench import policy
from shmbench.channels import Driver
from shmbench.native.scan import Consumer
from shmbench.workloads.policies import KernelDefault, Policy, Target


def _numbers(stats: object, prefix: str = "") -> dict[str, float]:
    """All numbers in what a `stats()` of the library gave, however deep, by their names."""
    found: dict[str, float] = {}
    for name, value in _fields(stats).items():
        if isinstance(value, (int, float)):
            found[f"{prefix}{name}"] = float(value)
        else:
            found |= _numbers(value, f"{prefix}{name}_")
    return found


def _fields(value: object) -> dict[Any, Any]:
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, dict):
        return value
    as_dict = getattr(value, "_asdict", None)  # of a named tuple
    return as_dict() if as_dict else {}


class Auto(Policy):
    """policy.open as it comes: each access is a call of Mapping.read."""

    name = "auto"
    summary = "shmbench.policy.open as it comes: it notices the order, and the page cache's state"
    drivers: ClassVar[tuple[Driver, ...]] = ("python",)
    snippet = """with shmbench.policy.open("{path}") as mapping:
    view = mapping.read(offset, {length})"""
    options: ClassVar[dict[str, Any]] = {}

    _mapping: policy.Mapping | None = None
    _counted: dict[str, float]

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._counted = {}

    def begin(self) -> None:
        self._mapping = policy.open(self.target.path, **self.options)

    def read(self, consumer: Consumer) -> None:
        assert self._mapping is not None
        take, read, length = consumer.take, self._mapping.read, self.target.length
        for offset in self.offsets:
            take(read(offset, length))

    def end(self) -> None:
        if self._mapping is not None:
            self._counted = _numbers(self._mapping.stats())
            self._mapping.close()
            self._mapping = None

    def stats(self) -> dict[str, float]:
        return self._counted


class PopulateParallel(Auto):
    """Mapping.populate by a thread on each CPU that there is."""

    name = "populate_parallel"
    summary = "Mapping.populate(threads=...): all mapped before the first access, by all CPUs"
    options: ClassVar[dict[str, Any]] = {"hint": "none"}
    snippet = """with shmbench.policy.open("{path}", hint="none") as mapping:
    mapping.populate(threads=len(os.sched_getaffinity(0)))"""

    def begin(self) -> None:
        super().begin()
        assert self._mapping is not None
        self._mapping.populate(threads=len(os.sched_getaffinity(0)))


class MapAhead(Auto):
    """policy.open with the map-ahead window wherever access is regular."""

    name = "map_ahead"
    summary = "map ahead of a reader: a window that doubles while its accesses are regular"
    options: ClassVar[dict[str, Any]] = {"hint": "map_ahead"}
    snippet = """with shmbench.policy.open("{path}", hint="map_ahead") as mapping:
    view = mapping.read(offset, {length})"""


class DropBehind(Auto):
    """Hint SEQUENTIAL_ONCE."""

    name = "drop_behind"
    summary = "the hint SEQUENTIAL_ONCE: give pages back behind the reader"
    options: ClassVar[dict[str, Any]] = {"hint": "sequential_once"}
    snippet = """with shmbench.policy.open("{path}", hint="sequential_once") as mapping:
    view = mapping.read(offset, {length})"""


class Guided(Auto):
    """Mapping.follow: the order is known beforehand."""

    name = "guided"
    summary = "the order is known: prefetch along the list of offsets"
    snippet = """with shmbench.policy.open("{path}", hint="guided") as mapping:
    for view in mapping.follow(offsets, {length}):
        ..."""
    options: ClassVar[dict[str, Any]] = {"hint": "guided"}

    def read(self, consumer: Consumer) -> None:
        assert self._mapping is not None
        take = consumer.take
        for view in self._mapping.follow(self.target.offsets, self.target.length):
            take(view)


class Watch(Auto):
    """policy.open with watch=True, and plain indexing of its array."""

    name = "watch"
    summary = "plain NumPy indexing, seen by a thread that watches which pages become mapped"
    drivers = ("python", "native")
    snippet = """with shmbench.policy.open("{path}", watch=True) as mapping:
    array = mapping.ndarray(numpy.uint8)
    part = array[offset : offset + {length}]"""
    options: ClassVar[dict[str, Any]] = {"watch": True}

    def read(self, consumer: Consumer) -> None:
        assert self._mapping is not None
        take, length = consumer.take, self.target.length
        with self._mapping.ndarray(np.uint8).data as view:
            for offset in self.offsets:
                take(view[offset : offset + length])

    def read_natively(self, consumer: Consumer) -> None:
        assert self._mapping is not None
        consumer.take_each(self._mapping.address, self.target.offsets, self.target.length)


class WatchFaults(Watch):
    """policy.open with watch="userfaultfd", and plain indexing of its array."""

    name = "watch_userfaultfd"
    summary = "plain NumPy indexing, and a thread that handles its faults and maps ahead"
    snippet = """with shmbench.policy.open("{path}", "r+", watch="userfaultfd") as mapping:
    array = mapping.ndarray(numpy.uint8)
    part = array[offset : offset + {length}]"""
    options: ClassVar[dict[str, Any]] = {"mode": "r+", "watch": "userfaultfd"}
    shared_memory_only = True


class CachedMapping(KernelDefault):
    """MappingCache.open: from the second pass on, the mapping and its pages are there."""

    name = "mapping_cache"
    summary = "the mapping cache: a closed file's mapping stays for the next open"
    snippet = """cache = shmbench.policy.MappingCache()
with cache.open("{path}") as mapping:
    array = mapping.ndarray(numpy.uint8)"""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._cache = policy.MappingCache(max_bytes=2 * target.size_bytes)
        self._cached: Any = None

    def begin(self) -> None:
        self._cached = self._cache.open(self.target.path)
        self._view = self._cached.memory
        self.address = self._cached.address

    def end(self) -> None:
        if self._cached is not None:
            self._view.release()
            self._cached.close()
            self._cached = None

    def forget(self) -> None:
        self.end()
        self._cache.clear()
