"""A memory cgroup of our own: less memory than the machine has, for one process and its threads.

Version 1 and version 2 of cgroups have it (Documentation/admin-guide/cgroup-v1/memory.rst and
cgroup-v2.rst of the kernel). Making one takes root, or a cgroup tree that was delegated. It has a
name as all that we put into the system, so that `shmbench clean` finds what a killed run left.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shmbench.errors import Unavailable
from shmbench.regions.names import fresh_name

_REMEDY = "run as root on the machine itself, or have a memory cgroup tree delegated to you"
_REFAULTS = ("workingset_refault_file", "workingset_refault_anon", "pgmajfault")


@dataclass(frozen=True)
class Hierarchy:
    """Where memory cgroups live: the directory of the root cgroup, and the version."""

    root: Path
    version: int

    @property
    def limit_name(self) -> str:
        """The file that holds the limit."""
        return "memory.max" if self.version == 2 else "memory.limit_in_bytes"


def find_hierarchy(mounts: Path = Path("/proc/self/mounts")) -> Hierarchy | None:
    """The mounted hierarchy that has the memory controller; None where there is none."""
    for line in mounts.read_text().splitlines():
        _, point, kind, options, *_ = line.split(" ")
        root = Path(point)
        if kind == "cgroup" and "memory" in options.split(","):
            return Hierarchy(root, 1)
        if kind == "cgroup2":
            with suppress(OSError):
                if "memory" in (root / "cgroup.subtree_control").read_text().split():
                    return Hierarchy(root, 2)
    return None


def probe() -> Unavailable | None:
    """Can a memory cgroup be made here? If not, why. Leaves nothing."""
    hierarchy = find_hierarchy()
    if hierarchy is None:
        return Unavailable("cgroup: no mounted hierarchy has the memory controller", _REMEDY)
    path = hierarchy.root / fresh_name()
    try:
        path.mkdir()
    except OSError as error:
        return Unavailable(f"cgroup: {hierarchy.root}: {error.strerror}", _REMEDY)
    path.rmdir()
    return None


def _own_cgroup(hierarchy: Hierarchy) -> Path:
    """The cgroup that this process is in now."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        wanted = "" if hierarchy.version == 2 else "memory"
        if wanted in controllers.split(","):
            return hierarchy.root / path.lstrip("/")
    return hierarchy.root


class MemoryCgroup:
    """A cgroup with a limit; this process moves in, and out again when it is closed.

    Args:
        limit_bytes: page cache counts, of files that are read while the process is inside.

    Raises:
        Unavailable: no hierarchy with the memory controller, or no permission.
    """

    def __init__(self, limit_bytes: int) -> None:
        hierarchy = find_hierarchy()
        if hierarchy is None:
            raise Unavailable("cgroup: no mounted hierarchy has the memory controller", _REMEDY)
        self._before = _own_cgroup(hierarchy)
        self.path = hierarchy.root / fresh_name()
        try:
            self.path.mkdir()
        except OSError as error:
            raise Unavailable(f"cgroup: {self.path}: {error.strerror}", _REMEDY) from error
        try:
            (self.path / hierarchy.limit_name).write_text(str(limit_bytes))
            self._move(self.path)
        except OSError:
            self.close()
            raise

    @staticmethod
    def _move(path: Path) -> None:
        (path / "cgroup.procs").write_text(str(os.getpid()))

    def counts(self) -> dict[str, int]:
        """Pages that came back after they were evicted, and bytes in swap, until now."""
        found = {}
        for line in (self.path / "memory.stat").read_text().splitlines():
            name, value = line.split()
            if name in _REFAULTS or name == "swap":
                found[name] = int(value)
        with suppress(OSError):  # version 2
            found["swap"] = int((self.path / "memory.swap.current").read_text())
        return found

    def close(self) -> None:
        """Move out and remove it; idempotent."""
        if self.path.exists():
            self._move(self._before)
            self.path.rmdir()
