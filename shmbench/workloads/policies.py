"""Policies: how a file is opened, advised and read, given the order of the accesses.

What a policy does from opening the file to the last access is timed; closing isn't. The kernel's
own policies are a plain mmap with at most one hint, and plain indexing; those of `shmbench.policy`
are in the module `library` beside this one.
"""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from shmbench.channels import Driver
from shmbench.native import memory
from shmbench.native.scan import Consumer
from shmbench.registry import Registry
from shmbench.workloads.patterns import Offsets


@dataclass(frozen=True)
class Target:
    """What is to be read.

    Attributes:
        path: of the file.
        size_bytes: of the file.
        offsets: of the accesses, in their order.
        length: of each access, in bytes.
    """

    path: str
    size_bytes: int
    offsets: Offsets
    length: int


class Policy(ABC):
    """One way to read a target; made once in a rank, used for many passes over it."""

    name: ClassVar[str]
    summary: ClassVar[str]  # one line for `shmbench list`
    drivers: ClassVar[tuple[Driver, ...]] = ("python", "native")
    snippet: ClassVar[str]  # how a program gets it; {path}, {length}
    shared_memory_only: ClassVar[bool] = False  # tmpfs and memfd: not for files on a disk

    def __init__(self, target: Target) -> None:
        self.target = target
        self.offsets: list[int] = target.offsets.tolist()  # a Python loop takes Python's integers

    @abstractmethod
    def begin(self) -> None:
        """Timed: open the file, and say what is to be said before the first access."""

    @abstractmethod
    def read(self, consumer: Consumer) -> None:
        """Timed: all accesses, in their order, one Python call or more each."""

    def read_natively(self, consumer: Consumer) -> None:
        """Timed: all accesses as plain loads of a compiled loop."""
        raise TypeError(f"{self.name} has no native loop")

    @abstractmethod
    def end(self) -> None:
        """Untimed: close the file; a policy that keeps mappings keeps them. Idempotent."""

    def forget(self) -> None:
        """Untimed: keep no mapping either, so that the file can be evicted. Idempotent."""
        self.end()

    def stats(self) -> dict[str, float]:
        """What it counted in the pass that `end` ends."""
        return {}


class KernelDefault(Policy):
    """mmap(2) without a hint: what the kernel does by itself."""

    name = "none"
    summary = "a plain mapping: the kernel's own read-ahead and fault-around"
    snippet = 'array = numpy.memmap("{path}", numpy.uint8, "r")'
    advice: ClassVar[int | None] = None

    _map: mmap.mmap | None = None
    _view: memoryview
    address: int

    def begin(self) -> None:
        fd = os.open(self.target.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, self.target.size_bytes, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self._view = memoryview(self._map)
        self.address = memory.address_of(self._view)
        if self.advice is not None:
            memory.madvise(self.address, self.target.size_bytes, self.advice)

    def read(self, consumer: Consumer) -> None:
        take, view, length = consumer.take, self._view, self.target.length
        for offset in self.offsets:
            take(view[offset : offset + length])

    def read_natively(self, consumer: Consumer) -> None:
        consumer.take_each(self.address, self.target.offsets, self.target.length)

    def end(self) -> None:
        if self._map is not None:
            self._view.release()
            self._map.close()
            self._map = None


_ADVISED = """mapping = shmbench.policy.open("{path}", hint="{name}")
array = mapping.ndarray(numpy.uint8)"""


class Sequential(KernelDefault):
    """MADV_SEQUENTIAL on the whole mapping."""

    name = "sequential"
    summary = "MADV_SEQUENTIAL: read far ahead, drop soon"
    advice = memory.MADV_SEQUENTIAL
    snippet = _ADVISED


class Random(KernelDefault):
    """MADV_RANDOM on the whole mapping."""

    name = "random"
    summary = "MADV_RANDOM: no read-ahead"
    advice = memory.MADV_RANDOM
    snippet = _ADVISED


class Willneed(KernelDefault):
    """MADV_WILLNEED on the whole mapping."""

    name = "willneed"
    summary = "MADV_WILLNEED: start to read all of the file"
    advice = memory.MADV_WILLNEED
    snippet = _ADVISED


class Populate(KernelDefault):
    """MADV_POPULATE_READ on the whole mapping."""

    name = "populate"
    summary = "MADV_POPULATE_READ: read and map all of the file before the first access"
    advice = memory.MADV_POPULATE_READ
    snippet = _ADVISED.replace("{name}", "populate_read")


class PageOut(KernelDefault):
    """MADV_PAGEOUT on what was read, a piece of 1 MiB at a time: leave memory to others."""

    name = "pageout"
    summary = "MADV_PAGEOUT behind the reader: give pages back before memory is short"
    drivers = ("python",)
    snippet = """mapping = shmbench.policy.open("{path}", hint="none")
mapping.advise("pageout", 0, already_read)  # now and then"""
    _PIECE_BYTES = 1 << 20

    def read(self, consumer: Consumer) -> None:
        take, view, length = consumer.take, self._view, self.target.length
        done = 0
        for offset in self.offsets:
            take(view[offset : offset + length])
            if not done <= offset < done + self._PIECE_BYTES:
                memory.madvise(self.address + done, self._PIECE_BYTES, memory.MADV_PAGEOUT)
                done = offset - offset % self._PIECE_BYTES


class Mapped(KernelDefault):
    """A mapping that is there, with all of its pages: what warm accesses are held against."""

    name = "mapped"
    summary = "a mapping that is there already: the limit of warm files"
    snippet = KernelDefault.snippet

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        super().begin()
        memory.touch_read(self.address, target.size_bytes)

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass

    def forget(self) -> None:
        super().end()


POLICIES: Registry[Policy] = Registry(
    "policy",
    {
        "none": "shmbench.workloads.policies:KernelDefault",
        "sequential": "shmbench.workloads.policies:Sequential",
        "random": "shmbench.workloads.policies:Random",
        "willneed": "shmbench.workloads.policies:Willneed",
        "populate": "shmbench.workloads.policies:Populate",
        "populate_parallel": "shmbench.workloads.library:PopulateParallel",
        "map_ahead": "shmbench.workloads.library:MapAhead",
        "mapping_cache": "shmbench.workloads.library:CachedMapping",
        "guided": "shmbench.workloads.library:Guided",
        "auto": "shmbench.workloads.library:Auto",
        "watch": "shmbench.workloads.library:Watch",
        "watch_userfaultfd": "shmbench.workloads.library:WatchFaults",
        "drop_behind": "shmbench.workloads.library:DropBehind",
        "pageout": "shmbench.workloads.policies:PageOut",
        "mapped": "shmbench.workloads.policies:Mapped",
    },
    entry_point_group="shmbench.policies",
)

# Those that any order of reads of any file can be measured with.
READING = (
    "none",
    "sequential",
    "random",
    "willneed",
    "populate",
    "populate_parallel",
    "map_ahead",
    "mapping_cache",
    "guided",
    "auto",
    "watch",
)
