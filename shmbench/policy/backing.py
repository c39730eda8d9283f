"""What a Mapping looks at: a mapped file, one of the mapping cache, a private copy, any buffer."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from shmbench.native import memory as native
from shmbench.native.filemap import FileMap
from shmbench.policy.cache import MappingCache
from shmbench.policy.hints import Refusal


@runtime_checkable
class Span(Protocol):
    """Bytes at an address, as every region of shmbench has them."""

    memory: memoryview
    address: int


@dataclass
class Backing:
    """Bytes in memory, and the file behind them.

    Attributes:
        memory: all of them.
        address: of memory[0]; 0 where there are none.
        fd: of the file, open until `close`; None: there is none, or it can't be found.
        path: of the file, for messages.
        file_offset: of memory[0] in the file.
        close: gives all of it back; views that are still out keep what they look at.
        grow: maps what the file has grown by and gives the new backing; None: it can't.
        advise: takes a hint for (offset, length) and remembers it; None: nobody has to.
    """

    memory: memoryview
    address: int
    fd: int | None
    path: str | None
    close: Callable[[], None]
    grow: Callable[[], Backing] | None = None
    advise: Callable[..., Refusal | None] | None = None
    file_offset: int = 0

    def file_size(self) -> int | None:
        """Where the file ends now, counted from memory[0]; None: there is no file."""
        if self.fd is None:
            return None
        return os.lseek(self.fd, 0, os.SEEK_END) - self.file_offset

    def why_not(self, offset: int, length: int, number: int) -> OSError:
        """Why bytes can't be had; `number` is the kernel's errno, or 0."""
        what = f"bytes {offset} to {offset + length}"
        size = self.file_size()
        if size is not None and offset + length > size:
            return OSError(errno.EFAULT, f"{what}: the file ends at {size}", self.path)
        if offset + length > len(self.memory):
            text = f"{what}: the mapping ends at {len(self.memory)}"
            return OSError(errno.EFAULT, text, self.path)
        number = number or errno.EFAULT
        if number == errno.EFAULT and self.fd is not None and not os.fstatvfs(self.fd).f_bavail:
            return OSError(errno.ENOSPC, f"{what}: the file system is full", self.path)
        return OSError(number, f"{what}: {os.strerror(number)}", self.path)


def whole_file(path: str, writable: bool) -> Backing:
    """A file, shared. Raises OSError with the path."""
    return _of_file_map(FileMap(path, writable), path)


def _of_file_map(file: FileMap, path: str) -> Backing:
    if not file.address:
        file.map()

    def grow() -> Backing:
        size = file.current_size()
        if file.resize(size, False):
            return _of_file_map(file, path)
        # It has to move, and views may look at the old place: the same open file once more.
        larger = _of_file_map(FileMap(f"/proc/self/fd/{file.fd}", file.writable), path)
        file.close()
        return larger

    return Backing(file.view(), file.address, file.fd, path, file.close, grow)


def cached_file(path: str, writable: bool, cache: MappingCache) -> Backing:
    """A file through a mapping cache, which takes it back on `close`. Raises OSError."""
    lent = cache.open(path, "r+" if writable else "r")

    def grow() -> Backing:
        larger = whole_file(f"/proc/self/fd/{lent.fd}", writable)
        lent.close()
        larger.path = path
        return larger

    return Backing(lent.memory, lent.address, lent.fd, path, lent.close, grow, lent.advise)


def private_copy(path: str) -> Backing:
    """A file that is written to in memory only (MAP_PRIVATE). Raises OSError with the path."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if not size:
            return Backing(memoryview(bytearray()), 0, fd, path, lambda: os.close(fd))
        mapped = mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        os.close(fd)
        number = error.errno if isinstance(error, OSError) else None
        raise OSError(number, str(error), path) from error
    view = memoryview(mapped)
    return Backing(view, native.address_of(view), fd, path, lambda: os.close(fd))


def buffer(given: Any) -> Backing:
    """The memory of a region, a mmap.mmap, a NumPy memmap or array: any contiguous buffer.

    Raises:
        TypeError: it is no buffer, or not contiguous.
    """
    if isinstance(given, Span):
        view, address = given.memory, given.address
    else:
        view = memoryview(given)
        if not view.contiguous:
            raise TypeError("a policy needs contiguous memory")
        view = view.cast("B") if view.nbytes else memoryview(bytearray())
        address = native.address_of(view)
    found = _file_at(address)
    if found is None:
        return Backing(view, address, None, None, lambda: None)
    fd, offset, path = found
    return Backing(view, address, fd, path, lambda: os.close(fd), file_offset=offset)


def _file_at(address: int) -> tuple[int, int, str] | None:
    """The open file behind an address, the offset there, and its path, if that can be known.

    For its size and its page cache; /proc/self/map_files leads there even when the name is gone,
    but is closed to ordinary users (proc(5)), so the name serves where it still fits.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in fields[0].split("-"))
        if not start <= address < end:
            continue
        if fields[4] == "0" or len(fields) < 6 or "p" in fields[1]:
            return None
        offset = int(fields[2], 16) + address - start
        for name in (f"/proc/self/map_files/{fields[0]}", fields[5]):
            with suppress(OSError):
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                status = os.fstat(fd)
                device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
                if (device, status.st_ino) == (fields[3], int(fields[4])):
                    return fd, offset, fields[5]
                os.close(fd)
    return None
