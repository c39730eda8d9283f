"""What our regions have in common: a mapping, checks beforehand, and errors in one line."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar, Protocol

import psutil

from shmbench.errors import Unavailable
from shmbench.native.memory import PAGE_BYTES, Mapping
from shmbench.regions import Pages, Region, RegionSpec

HUGE_BYTES = 2 << 20


def round_up(size_bytes: int, page_bytes: int) -> int:
    """The whole pages that hold so many bytes, in bytes."""
    return -(-size_bytes // page_bytes) * page_bytes


class MappedRegion(Region):
    """A region behind one `Mapping`.

    Arrays and memoryviews of `memory` outlive `close` unharmed: the pages go with the last of them.
    """

    page_states: ClassVar[tuple[Pages, ...]] = ("untouched", "prefault", "thp")

    def __init__(self, mapping: Mapping, size_bytes: int) -> None:
        self._mapping = mapping
        self.address = mapping.address
        self.memory = mapping.view()[:size_bytes]

    def close(self) -> None:
        """See Region.close."""
        release(self)
        self._mapping.close()


class _HasMemory(Protocol):
    memory: memoryview


def release(owner: _HasMemory) -> None:
    """Take `memory` away from its owner; arrays made of it keep what they have."""
    view, owner.memory = owner.memory, memoryview(b"")
    with suppress(BufferError):
        view.release()


def page_bytes_of(spec: RegionSpec) -> int:
    """What a mapping has to be aligned to, so that the kernel can use the pages asked for."""
    return HUGE_BYTES if spec.pages in ("thp", "hugetlb") else PAGE_BYTES


def check(kind: str, spec: RegionSpec, page_states: tuple[Pages, ...]) -> None:
    """What every kind looks at before it makes anything.

    Raises:
        Unavailable: the kind doesn't offer these pages.
    """
    if spec.pages not in page_states:
        raise Unavailable(
            f"{kind}: it can't have {spec.pages} pages",
            f"choose --pages {' or '.join(page_states)}, or another kind of region",
        )


def check_memory(kind: str, size_bytes: int) -> None:
    """Refuse what the machine's memory can't hold, instead of waiting for the kernel's OOM killer.

    Raises:
        Unavailable: more than /proc/meminfo's MemAvailable.
    """
    available = psutil.virtual_memory().available
    if size_bytes > available:
        raise Unavailable(
            f"{kind}: {size_bytes:,} bytes are wanted, {available:,} bytes of memory are available",
            "choose a smaller size, or end what uses the memory",
        )


def _remedy(number: int | None, where: str | None) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"make room in {where or 'memory'}, or choose a smaller size"
    if number == errno.ENOMEM:
        return "choose a smaller size, or free memory"
    if number in (errno.EMFILE, errno.ENFILE):
        return "allow more open files: ulimit -n"
    if number == errno.EFBIG:
        return "allow larger files (ulimit -f), or choose a smaller size"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
        if where is None:
            return "run all ranks as one user and in one container"
        return f"make sure that {where} is there and yours to write, or choose another directory"
    return "choose another kind of region: shmbench list regions"


@contextmanager
def explained(
    kind: str, spec: RegionSpec, where_of: Callable[[RegionSpec], str | None]
) -> Iterator[None]:
    """Turn what the system refuses in its body into an `Unavailable` in one line.

    Args:
        kind: of the region.
        spec: what was asked for.
        where_of: the directory that it was to be in; None for kinds that have no name.
    """
    try:
        yield
    except OSError as error:
        where = None
        with suppress(OSError):  # out of descriptors, say
            where = where_of(spec)
        place = f" in {where}" if where else ""
        room = ""
        if where and error.errno in (errno.ENOSPC, errno.EDQUOT):
            with suppress(OSError):
                room = f" ({shutil.disk_usage(where).free:,} bytes are free)"
        raise Unavailable(
            f"{kind}: {spec.size_bytes:,} bytes{place}: {error.strerror or error}{room}",
            _remedy(error.errno, where),
        ) from error
