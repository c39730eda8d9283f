"""What the tests of regions share: groups, specs, and a look at what is left behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from needs import need

from shmbench.group.process import ProcessGroup, run_ranks
from shmbench.regions import Pages, Region, RegionSpec, names
from shmbench.regions.file import default_directories

SIZE = (3 << 20) + 5  # of no page size a multiple
DEADLINE_S = 20


class Solo:
    """A group of one: this process."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        pass

    def allgather(self, item: bytes) -> list[bytes]:
        return [item]


@contextmanager
def reserved_huge_pages() -> Iterator[None]:
    """Reserves 2 MiB pages where this user may, one test run at a time, and gives them back."""
    knob = Path("/proc/sys/vm/nr_hugepages")
    if not os.access(knob, os.W_OK):
        yield
        return
    with knob.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = knob.read_text()
        knob.write_text(str(int(before) + 16))
        yield
        knob.write_text(before)


def need_available(kind: type[Region], spec: RegionSpec) -> None:
    """Skip where this machine can't have such a region."""
    missing = kind.probe(spec)
    if missing is not None:
        need(False, missing.message, missing.remedy or "")


def spec_of(kind: type[Region], pages: Pages | None = None, size_bytes: int = SIZE) -> RegionSpec:
    return RegionSpec(size_bytes, pages or kind.default_pages)


def in_ranks(
    kind: type[Region],
    size: int,
    use: Callable[[ProcessGroup, Region], bytes],
    spec: RegionSpec | None = None,
) -> list[bytes]:
    """Open a region in forked ranks, as a trial does, and use it in each."""
    spec = spec or spec_of(kind)
    inherited = kind.inherit(spec)

    def body(group: ProcessGroup) -> bytes:
        region = kind.open(group, spec, inherited)
        try:
            return use(group, region)
        finally:
            region.close()

    try:
        return run_ranks(size, body, timeout_s=DEADLINE_S)
    finally:
        if inherited is not None:
            inherited.close()


def open_alone(kind: type[Region], spec: RegionSpec) -> Region:
    return kind.open(Solo(), spec, kind.inherit(spec))


def left_by(pids: set[int]) -> list[Path]:
    """Names that these processes made, wherever regions have names."""
    places = {Path("/dev/shm"), *map(Path, default_directories())}
    found = []
    for place in places:
        for path in place.iterdir():
            owner = names.parse_name(path.name)
            if owner is not None and owner[1] in pids:
                found.append(path)
    return found


def descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def holdings() -> tuple[int, int]:
    """How many descriptors and mappings this process has."""
    mappings = len(Path("/proc/self/maps").read_text().splitlines())
    return descriptors(), mappings
