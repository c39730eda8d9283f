"""Which file system a path is on."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

import psutil

from shmbench.native.memory import is_dax


@dataclass(frozen=True)
class Mount:
    """A mounted file system, as /proc/self/mounts names it."""

    point: str
    filesystem: str
    options: str

    @property
    def in_memory(self) -> bool:
        """Are its files nothing but memory?"""
        return self.filesystem in ("tmpfs", "ramfs")


def mount_of(path: str) -> Mount | None:
    """The mount that a path lies in; None where the mount table can't be read."""
    real = os.path.realpath(path)
    found = None
    for part in psutil.disk_partitions(all=True):
        inside = os.path.commonpath([real, part.mountpoint]) == part.mountpoint
        # Of two mounts on one point, the later one covers the earlier.
        if inside and (found is None or len(part.mountpoint) >= len(found.point)):
            found = Mount(part.mountpoint, part.fstype, part.opts)
    return found


def new_files_are_dax(directory: str) -> bool:
    """Are files that are made here mapped where they lie (DAX)? False where none can be made."""
    with suppress(OSError):
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC)
        try:
            return is_dax(fd)
        finally:
            os.close(fd)
    return False
