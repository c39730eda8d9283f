"""A mapped file as the mapping cache lends it: the entry, and the handle that a user has of it."""

import errno
import os
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from shmbench.native.filemap import FileMap
from shmbench.policy.hints import HintLike, Lasting, OnRefusal, Refusal, advise, hint_of

FilePath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Name = tuple[str | bytes, bool]  # a path as it was given, and whether it is mapped for writing


class Lender(Protocol):
    """Where a handle came from, and goes back to."""

    def take_back(self, handle: "CachedMapping") -> None: ...

    def abandon(self, entry: "Entry") -> None: ...


class Entry:
    """One mapped file, with those who use it. Guarded by its cache's lock.

    Attributes:
        file: the mapping itself.
        identity: (device, inode, writable), by which the cache finds it.
        name: by which it was opened first.
        inside: whether the cache holds it; otherwise its last user unmaps it.
        users: how many handles there are.
        lasting: what hints left behind in it.
    """

    __slots__ = ("file", "identity", "inside", "lasting", "name", "users")

    def __init__(self, file: FileMap, name: Name, inside: bool) -> None:
        self.file = file
        self.identity = file.identity
        self.name = name
        self.inside = inside
        self.users = 1
        self.lasting = Lasting.NO


class CachedMapping:
    """A mapped file, lent by a mapping cache; `close` gives it back. A context manager.

    Arrays and memoryviews made from it stay good after `close`, for as long as they live.
    """

    __slots__ = ("_lender", "entry")

    def __init__(self, lender: Lender, entry: Entry) -> None:
        self._lender = lender
        self.entry: Entry | None = entry  # the cache's: None once it is back

    def _file(self) -> FileMap:
        entry = self.entry  # once: another thread may close it
        if entry is None:
            raise ValueError("the mapping is closed")
        return entry.file

    @property
    def path(self) -> FilePath:
        """By which the file was first opened."""
        return self._file().path

    @property
    def memory(self) -> memoryview:
        """All of the file. Unchecked: what another process truncates from now on is SIGBUS."""
        return self._file().view()

    @property
    def address(self) -> int:
        """Of the first byte, good until `close`; 0 for an empty file."""
        return self._file().address

    @property
    def size(self) -> int:
        """How many bytes are mapped; more, when another open has found the file grown."""
        return self._file().size

    @property
    def fd(self) -> int:
        """The open file, good until `close`; not to be closed."""
        return self._file().fd

    @property
    def cached(self) -> bool:
        """Whether `close` parks it; else it unmaps it."""
        return self.entry is not None and self.entry.inside

    def read(self, offset: int, length: int) -> bytes:
        """A copy; never SIGBUS, whatever happens to the file.

        Raises:
            OSError: EFAULT, with the path, where the file does not reach that far (any more).
        """
        content = self._file().read(offset, length)
        if len(content) != length:
            raise self._too_short(offset, length)
        return content

    def ndarray(
        self, dtype: npt.DTypeLike, shape: int | tuple[int, ...], offset: int = 0
    ) -> npt.NDArray[np.generic]:
        """An array over the mapped bytes, no copy; read-only in mode "r".

        Args:
            dtype: of an element.
            shape: of the array.
            offset: of its first byte in the file.

        Raises:
            OSError: EFAULT, with the path, where the file does not reach that far (any more).
        """
        wanted = np.dtype(dtype).itemsize * int(np.prod(shape))
        if offset < 0 or offset + wanted > min(self._file().current_size(), self.size):
            raise self._too_short(offset, wanted)
        return np.asarray(self.memory[offset : offset + wanted]).view(dtype).reshape(shape)

    def advise(
        self,
        hint: HintLike,
        offset: int = 0,
        length: int | None = None,
        *,
        on_refusal: OnRefusal = "raise",
    ) -> Refusal | None:
        """A hint for a part of it (see `hints.advise`), for all who have it open; undone by the
        time that somebody opens it anew."""
        file = self._file()
        entry = self.entry
        if entry is not None:
            entry.lasting = max(entry.lasting, hint_of(hint).lasting)
        size = file.size - offset if length is None else length
        return advise(file.address + offset, size, hint, on_refusal=on_refusal)

    def close(self) -> None:
        """Give it back; idempotent."""
        self._lender.take_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lender.take_back(self)

    def __del__(self) -> None:
        # No lock here: the garbage collector may run while this very thread holds it.
        if self.entry is not None:
            self._lender.abandon(self.entry)

    def _too_short(self, offset: int, length: int) -> OSError:
        file = self._file()
        return OSError(
            errno.EFAULT,
            f"bytes {offset} to {offset + length} were asked for, but the file has"
            f" {file.current_size()} now and had {file.size} when it was mapped",
            os.fspath(file.path),
        )
