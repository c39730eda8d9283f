"""A file that is mapped: in memory (tmpfs) or on any file system that the user names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from shmbench.errors import Unavailable
from shmbench.regions import RegionSpec
from shmbench.regions.descriptor import DescriptorRegion
from shmbench.regions.mapped import check_memory
from shmbench.regions.mounts import mount_of
from shmbench.regions.names import fresh_name


def default_directories() -> list[str]:
    """Where file regions live when nobody says: a directory in memory, then one on a disk.

    Either is left out where the machine has none that this user may write in; if it has neither,
    the directory for temporary files is the only one.
    """
    result = []
    for in_memory, candidates in (
        (True, ("/dev/shm", tempfile.gettempdir())),
        (False, ("/var/tmp", tempfile.gettempdir(), str(Path.home()))),
    ):
        for directory in candidates:
            mount = mount_of(directory)
            if mount and mount.in_memory is in_memory and os.access(directory, os.W_OK | os.X_OK):
                result.append(directory)
                break
    return result or [tempfile.gettempdir()]


class FileRegion(DescriptorRegion):
    """A file in `spec.directory`; None: the first of `default_directories()`."""

    kind = "file"
    takes_directory = True

    @classmethod
    def where(cls, spec: RegionSpec) -> str | None:
        """See AttachableRegion.where."""
        return str(Path(spec.directory or default_directories()[0]).absolute())

    @classmethod
    def _make(cls, spec: RegionSpec) -> tuple[int, str]:
        path = f"{cls.where(spec)}/{fresh_name()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(path, flags, 0o600), path

    @classmethod
    def _find(cls, handle: str) -> int:
        return os.open(handle, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    @classmethod
    def _remove(cls, handle: str) -> None:
        Path(handle).unlink()

    @classmethod
    def _reserve(cls, descriptor: int, length: int, spec: RegionSpec) -> None:
        mount = mount_of(cls.where(spec) or "/")
        if mount is not None and mount.in_memory:
            check_memory(cls.kind, length)
        elif spec.numa != "local":
            # mbind(2): a policy is ignored for shared mappings of files outside tmpfs
            raise Unavailable(
                f"file: the kernel places the pages of a file in {cls.where(spec)} where it likes",
                "leave the NUMA placement at local, or choose a directory on tmpfs",
            )
        os.posix_fallocate(descriptor, 0, length)
