"""Files to measure on: made once a run, full of bytes that aren't zero, and gone at its end.

The measuring process makes them before it forks, so that each process group inherits the open
file. A fixture has a name only where the case wants to open it by one; otherwise it has lost its
name as soon as it was made, and goes with the last process that has it open.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shmbench.errors import Unavailable
from shmbench.native import memory, scan
from shmbench.regions import RegionSpec
from shmbench.regions.mapped import check_memory, explained
from shmbench.regions.mounts import mount_of
from shmbench.regions.names import fresh_name

_CHUNK_BYTES = 8 << 20
_ROOM_SHARE = 0.5  # of what is free: others live there too


@dataclass(frozen=True)
class FixtureSpec:
    """What file a case wants.

    Attributes:
        directory: where; None: in memory, without a file system that is mounted (memfd).
        size_bytes: how long.
        named: it is opened by a name of its own, not through the process that made it.
        existing: the path of a file that is there already, and is only read.
    """

    directory: str | None
    size_bytes: int
    named: bool = False
    existing: str | None = None


@dataclass(frozen=True)
class Fixture:
    """An open file; `path` opens it again in the process that made it and in all it forked.

    Attributes:
        named: we gave it a name, which has to be taken away again.
    """

    path: str
    fd: int
    size_bytes: int
    named: bool = False

    @classmethod
    def make(cls, spec: FixtureSpec) -> Self:
        """Make the file, filled and written back; or open the one that is there.

        Raises:
            Unavailable: no room, or the directory can't be written; with the remedy.
            OSError: the file that shall be there can't be read.
        """
        if spec.existing is not None:
            fd = os.open(spec.existing, os.O_RDONLY | os.O_CLOEXEC)
            return cls(spec.existing, fd, spec.size_bytes)
        region_spec = RegionSpec(spec.size_bytes, directory=spec.directory)
        with explained("file", region_spec, lambda _: spec.directory):
            if spec.directory is None:
                check_memory("memfd", spec.size_bytes)
                fd = os.memfd_create("shmbench-fixture", os.MFD_CLOEXEC)
                path = f"/proc/self/fd/{fd}"
            else:
                _check_room(spec.directory, spec.size_bytes)
                path = f"{spec.directory.rstrip('/')}/{fresh_name()}"
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            made = cls(path, fd, spec.size_bytes, named=spec.directory is not None)
            try:
                if spec.directory is not None and not spec.named:
                    made.unlink()
                    made = cls(f"/proc/self/fd/{fd}", fd, spec.size_bytes)
                _fill(fd, spec.size_bytes)
            except BaseException:
                made.close()
                raise
        return made

    def handle(self) -> str:
        """A path by which other processes of this user open it, while this one has it open."""
        return self.path if self.named else f"/proc/{os.getpid()}/fd/{self.fd}"

    @classmethod
    def attach(cls, handle: str) -> Self:
        """Open what another process made, for reading. Raises OSError."""
        fd = os.open(handle, os.O_RDONLY | os.O_CLOEXEC)
        return cls(handle, fd, os.fstat(fd).st_size)

    def unlink(self) -> None:
        """Take its name away; idempotent."""
        if self.named:
            with suppress(FileNotFoundError):
                Path(self.path).unlink()

    def close(self) -> None:
        """Take its name away and close it."""
        self.unlink()
        os.close(self.fd)


def _check_room(directory: str, size_bytes: int) -> None:
    mount = mount_of(directory)
    if mount is not None and mount.in_memory:
        check_memory("file", size_bytes)
        return
    free = shutil.disk_usage(directory).free
    if size_bytes > free * _ROOM_SHARE:
        raise Unavailable(
            f"file: {size_bytes:,} bytes are wanted in {directory}, {free:,} bytes are free there",
            "make room, or choose a smaller --file-size or another --dir",
        )


def _fill(fd: int, size_bytes: int) -> None:
    os.posix_fallocate(fd, 0, size_bytes)
    buffer = memory.Mapping(_CHUNK_BYTES, flags=memory.MAP_PRIVATE | memory.MAP_ANONYMOUS)
    try:
        with buffer.view() as chunk:
            for offset in range(0, size_bytes, _CHUNK_BYTES):
                scan.fill_words(buffer.address, _CHUNK_BYTES // 8, offset // 8)
                length = min(_CHUNK_BYTES, size_bytes - offset)
                done = 0
                while done < length:
                    done += os.pwrite(fd, chunk[done:length], offset + done)
    finally:
        buffer.close()
    os.fdatasync(fd)


class Fixtures:
    """Those of a run, each made when it is first asked for; a context manager."""

    def __init__(self) -> None:
        self._made: dict[FixtureSpec, Fixture] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, spec: FixtureSpec) -> Fixture:
        """The file of that kind. Raises Unavailable, see `Fixture.make`."""
        if spec not in self._made:
            self._made[spec] = Fixture.make(spec)
        return self._made[spec]

    def close(self) -> None:
        """Remove all of them; idempotent."""
        while self._made:
            _, fixture = self._made.popitem()
            fixture.close()
