"""A mapping with a policy behind it: what a program reads is there in time, and safe to read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from weakref import ref

import numpy as np
import numpy.typing as npt

from shmbench.native.gate import ASK, OUTSIDE, Gate
from shmbench.native.memory import MADV_NORMAL, MADV_RANDOM, PAGE_BYTES
from shmbench.native.prefetch import WILLNEED, Prefetcher
from shmbench.policy import hints
from shmbench.policy.ahead import MapAhead, is_large
from shmbench.policy.backing import Backing
from shmbench.policy.hint_table import Hint, Lasting
from shmbench.policy.hints import HintLike, OnRefusal, Refusal, Strided
from shmbench.policy.residency import Residency
from shmbench.policy.settings import Ahead
from shmbench.policy.stats import MappingStats
from shmbench.policy.trial import SLOW_NS
from shmbench.policy.watch import Watch, Watcher, source_of

if TYPE_CHECKING:
    from shmbench.policy.guided import Follower

Policy = HintLike | Literal["map_ahead", "populate"]

_AHEAD = Ahead()
_KERNELS_NAMES: dict[HintLike, HintLike] = {"map_ahead": "auto", "populate": "populate_read"}
# No set: the hash of an Enum's member is a call of Python's, as dear as a system call.
_WATCHING = (Hint.AUTO, Hint.KEEP, Hint.REVERSE, Hint.STRIDED, Hint.SEQUENTIAL_ONCE)


class Mapping:
    """Mapped bytes, read through calls that fetch ahead, hold no GIL while they wait, and raise.

    What `read`, `blocks` and `follow` give was in memory when they returned it. A file that another
    process truncates after that is SIGBUS on the next touch, as with any mapping: no user-space
    library can prevent it. The same goes for `ndarray`: indexing it passes through no call of ours.

    Made by `shmbench.policy.open` and `attach`. A context manager; one may be used by several
    threads. Arrays and views that are still alive when it is closed stay valid.

    Args:
        backing: the bytes and their file.
        hint: a Hint, `strided(n)`, or a name; "map_ahead" fetches every window ahead, "populate"
            maps all at once, "none" leaves all to the kernel.
        ahead: how far to fetch ahead.
        watch: also see accesses that pass through no call of ours: True, or the name of a source,
            see `watch.Watcher`. "userfaultfd" is for shared memory only, and has a price.
        on_refusal: what to do when the kernel refuses the hint.

    Raises:
        OSError: a hint is refused, or the file is shorter than the mapping.
        Unavailable: the source can't watch this memory.
        UsageError: no hint or source has that name.
    """

    def __init__(
        self,
        backing: Backing,
        *,
        hint: Policy = "auto",
        ahead: Ahead | None = None,
        watch: Watch = False,
        on_refusal: OnRefusal = "raise",
    ) -> None:
        self._settings = ahead or _AHEAD
        self._lock = threading.Lock()
        self._helper = Prefetcher()
        self._refusals: list[Refusal] = []
        self._watch = source_of(watch)
        self._watcher: Watcher | None = None
        self._always = hint == "map_ahead"
        self._hint: HintLike = _KERNELS_NAMES.get(hint, hint) if isinstance(hint, str) else hint
        self._kind = hints.hint_of(self._hint)
        self._lasting = Lasting.NO
        self._closed = False
        self._ahead: MapAhead | None = None
        self._unseen = False  # accesses by an array's indexing
        self._look_at(backing)
        self._gate.may_begin_alone = (
            self._kind is Hint.AUTO
            and not self._always
            and not watch
            and backing.fd is not None
            and is_large(self.size)
        )
        try:
            self._start_watching()
            self._apply(on_refusal)
        except BaseException:
            self.close()
            raise

    def _look_at(self, backing: Backing) -> None:
        """All that depends on the address."""
        self._backing = backing
        self._memory = backing.memory
        size = len(backing.memory)
        fd = -1 if backing.fd is None else backing.fd
        self._gate = Gate(
            backing.address,
            size,
            fd=fd,
            offset=backing.file_offset,
            memory=backing.memory,
            owner=ref(self),
        )
        # Natively: a method of ours around it would cost as much as the rest of a warm read.
        self.read = self._gate.read  # type: ignore[method-assign]
        self._gate.asking = size > 0 and self._kind in _WATCHING
        self._gate.exact = self._kind is Hint.RANDOM
        if self._kind is Hint.AUTO and not self._always:
            self._gate.waking = self._settings.warm_after_bytes
            self._gate.waking_left = self._settings.warm_left_bytes
            self._gate.slow_ns = SLOW_NS
            self._gate.map_strides = True
            self._gate.doze()

    def _map_ahead(self) -> MapAhead:
        """Made when it is first asked: many a mapping is closed before."""
        if self._ahead is None:
            step = self._hint.step_bytes if isinstance(self._hint, Strided) else None
            self._ahead = MapAhead(
                self._gate,
                self._settings.law(step),
                self._residency(),
                self._helper,
                always=self._always,
                drop_behind=self._kind is Hint.SEQUENTIAL_ONCE,
            )
            self._ahead.unseen = self._unseen
        return self._ahead

    def _residency(self) -> Residency:
        backing = self._backing
        skew = backing.address % PAGE_BYTES
        return Residency(
            backing.address - skew, self.size + skew, backing.fd, backing.file_offset - skew
        )

    def _start_watching(self) -> None:
        if self._watch and self.size:
            skew = self.address % PAGE_BYTES
            self._watcher = Watcher(self.address - skew, self.size + skew, source=self._watch)
            self._watcher.start()
            self._gate.userfaultfd = self._watcher.userfaultfd

    def _apply(self, on_refusal: OnRefusal) -> None:
        """What the hint does at once."""
        kind = self._kind
        if kind is Hint.POPULATE_READ:
            self.populate()
        elif kind is Hint.WILLNEED:
            self._start_reading()
        elif kind not in _WATCHING and kind is not Hint.GUIDED:
            self.advise(self._hint, on_refusal=on_refusal)

    def _start_reading(self) -> None:
        # By the helper: the kernel submits the reads before it returns, which takes as long as the
        # device's queue is short.
        if self.size:
            skew = self.address % PAGE_BYTES
            self._helper.submit(self.address - skew, self.size + skew, WILLNEED)
            self._gate.expect_reads()

    @property
    def path(self) -> str | None:
        """Of the file; None where there is none, or it isn't known."""
        return self._backing.path

    @property
    def size(self) -> int:
        """How many bytes are mapped."""
        return len(self._memory)

    @property
    def address(self) -> int:
        """Of the first byte; it changes when the mapping grows."""
        return self._backing.address

    def __len__(self) -> int:
        return len(self._memory)

    def read(self, offset: int, length: int) -> memoryview:
        """Bytes that are in memory; no copy.

        Where the file has grown beyond the mapping, the mapping grows, too.

        Args:
            offset: of the first byte.
            length: bytes.

        Raises:
            OSError: EFAULT, with the path: the file ends before (it shrank, or never was so long);
                ENOSPC: a hole of the file can't be filled; EIO.
            ValueError: negative numbers, or the mapping is closed.
        """
        return self._gate.read(offset, length)

    def blocks(
        self, size: int, start: int | None = None, stop: int | None = None, step: int | None = None
    ) -> Iterator[memoryview]:
        """Views of `size` bytes at offsets range(start, stop, step); no copy.

        Args:
            size: of a block in bytes; the last one is shorter where `stop` lies within it.
            start: first offset; None: 0, or with a negative step the last multiple of `size`.
            stop: no byte from there on is given; None: the mapping's end. With a negative step, no
                offset reaches it; None: the beginning.
            step: from block to block; None: `size`. Negative: backwards.

        Raises:
            OSError: as `read`.
            ValueError: a size below 1, a step of 0, or an offset below 0.
        """
        if size < 1:
            raise ValueError(f"blocks of {size} bytes")
        step = size if step is None else step
        end = self.size if stop is None or step < 0 else stop
        if start is None:
            start = 0 if step > 0 else max(0, end - 1) // size * size
        if stop is None:
            stop = end if step > 0 else -1
        for offset in range(start, stop, step):
            yield self.read(offset, min(size, end - offset) if offset < end else size)

    def follow(
        self,
        offsets: Iterable[int] | npt.NDArray[np.int64],
        length: int | Sequence[int],
        **options: Any,
    ) -> Follower:
        """Views at offsets that are known beforehand, fetched ahead: see `guided.Follower`.

        Args:
            offsets: of the items, in the order of their use.
            length: of each item in bytes, or one length for each.
            **options: of Follower: budget_bytes, most_items.

        Raises:
            ValueError: the mapping is closed.
        """
        if self._closed:
            raise ValueError("the mapping is closed")
        from shmbench.policy.guided import Follower

        ahead = self._ahead
        random = self._kind is Hint.RANDOM or (ahead is not None and not ahead.read_ahead)
        return Follower(
            self._memory,
            self.address,
            self._backing.fd,
            offsets,
            length,
            file_offset=self._backing.file_offset,
            advice_afterwards=MADV_RANDOM if random else MADV_NORMAL,
            **options,
        )

    def ndarray(
        self, dtype: npt.DTypeLike, shape: int | tuple[int, ...] | None = None, offset: int = 0
    ) -> npt.NDArray[Any]:
        """An array over the bytes; read-only in mode "r".

        Its indexing passes through no call of ours: pages that are not there fault in with the GIL
        held, and a file that shrank is SIGBUS. `populate` beforehand, or `watch`, helps against the
        former.

        Args:
            dtype: of an element.
            shape: of the array; None: as many elements as fit behind `offset`.
            offset: of the first byte.

        Raises:
            OSError: EFAULT, with the path: the file is shorter.
            ValueError: the mapping is closed.
        """
        item = np.dtype(dtype).itemsize
        if shape is None:
            shape = max(0, self.size - offset) // item
        length = int(np.prod(shape)) * item
        if self._closed or offset < 0:
            raise ValueError("the mapping is closed" if self._closed else f"offset {offset}")
        if offset + length > self.size:
            self._grow(offset, length)
        size = self._backing.file_size()
        if size is not None and offset + length > size:
            raise self._backing.why_not(offset, length, self._gate.error)
        self._expect_unseen()
        return np.ndarray(shape, dtype, self._memory, offset)

    def _expect_unseen(self) -> None:
        """From now on, nothing that the accesses seen suggest turns the kernel's read-ahead off."""
        self._unseen = True
        self._gate.may_begin_alone = False
        if self._ahead is not None:
            self._ahead.unseen = True
        self._leave_read_ahead()

    def _leave_read_ahead(self) -> None:
        """On, if it is off because of the accesses that were seen."""
        if self._ahead is not None or self._gate.alone:
            with suppress(OSError):  # of memory that its owner has unmapped meanwhile
                self._map_ahead().close()

    def populate(
        self,
        offset: int = 0,
        length: int | None = None,
        *,
        write: bool = False,
        threads: int = 1,
    ) -> None:
        """Map pages now, without the GIL.

        Args:
            offset: of the first byte.
            length: in bytes; None: all that follows.
            write: so that writing to them needs no fault either.
            threads: how many do it at once, the caller among them, on the CPUs that it may use.
                Fresh memory has to be cleared, and a CPU clears less than the memory could take.

        Raises:
            OSError: as `read`.
            ValueError: fewer threads than one.
        """
        if threads < 1:
            raise ValueError(f"{threads} threads can't populate anything; 1 is the caller alone")
        length = max(0, self.size - offset) if length is None else length
        if self._gate.populate(offset, length, write, threads):
            raise self._backing.why_not(offset, length, self._gate.error)

    def advise(
        self,
        hint: HintLike,
        offset: int = 0,
        length: int | None = None,
        *,
        on_refusal: OnRefusal = "raise",
    ) -> Refusal | None:
        """Give the kernel a hint for a part; see `hints.advise`. Refusals are also in `stats`."""
        length = max(0, self.size - offset) if length is None else length
        self._check_range(offset, length)
        kind = hints.hint_of(hint)
        if kind in (Hint.POPULATE_READ, Hint.POPULATE_WRITE):
            self.populate(offset, length, write=kind is Hint.POPULATE_WRITE)
            return None
        if self._backing.advise is not None:
            refusal = self._backing.advise(hint, offset, length, on_refusal=on_refusal)
        else:
            self._lasting = max(self._lasting, kind.lasting)
            refusal = hints.advise(self.address + offset, length, hint, on_refusal=on_refusal)
        if kind is Hint.WILLNEED:
            self._gate.expect_reads()
        if refusal is not None:
            self._refusals.append(refusal)
        return refusal

    def advise_many(
        self,
        hint: HintLike,
        offsets: Iterable[int],
        lengths: int | Iterable[int],
        *,
        on_refusal: OnRefusal = "raise",
    ) -> list[Refusal]:
        """Give a hint for many parts, 1024 of them a system call; see `hints.advise_many`.

        Args:
            hint: a Hint or its name.
            offsets: of the parts.
            lengths: of the parts in bytes, or one length for all.
            on_refusal: as for `advise`.
        """
        starts = list(offsets)
        sizes = [lengths] * len(starts) if isinstance(lengths, int) else list(lengths)
        for start, size in zip(starts, sizes, strict=True):
            self._check_range(start, size)
        lasting = hints.hint_of(hint).lasting
        if lasting and self._backing.advise is not None:  # the cache has to undo it, part by part
            found = [
                self.advise(hint, start, size, on_refusal=on_refusal)
                for start, size in zip(starts, sizes, strict=True)
            ]
            return [refusal for refusal in found if refusal is not None]
        if hints.hint_of(hint) is Hint.WILLNEED:
            self._gate.expect_reads()
        self._lasting = max(self._lasting, lasting)
        ranges = [(self.address + start, size) for start, size in zip(starts, sizes, strict=True)]
        refused = hints.advise_many(ranges, hint, on_refusal=on_refusal)
        self._refusals += refused
        return refused

    def stats(self) -> MappingStats:
        """What happened so far."""
        gate, ahead = self._gate, self._map_ahead()
        law = ahead.law
        return MappingStats(
            accesses=gate.accesses,
            misses=gate.misses,
            accesses_seen=law.accesses,
            accesses_of_streams=law.accesses_of_streams,
            windows=law.windows,
            pages_asked=law.pages_asked,
            pages_unused=law.pages_cancelled,
            bytes_asked={
                "willneed": ahead.bytes_willneed,
                "populate": ahead.bytes_populate,
                "pageout": ahead.bytes_dropped,
                "read": gate.bytes_populated,
            },
            read_ahead=ahead.read_ahead and not gate.alone,
            helper=self._helper.counters(),
            refusals=list(self._refusals),
            watch=None if self._watcher is None else self._watcher.stats(),
        )

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """What was written is on the device when this returns (msync(2)). Raises OSError."""
        length = max(0, self.size - offset) if length is None else length
        self._check_range(offset, length)
        number = self._gate.flush(offset, length) if length else 0
        if number:
            raise OSError(number, f"flush: {os.strerror(number)}", self.path)

    def close(self) -> None:
        """Stop fetching ahead, and unmap as soon as no view looks at it any more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._let_go()
        self._gate.retire()
        self._helper.close()
        if self._lasting is Lasting.READ_AHEAD and self.size:
            with suppress(OSError):
                hints.advise(self.address, self.size, Hint.NORMAL)
        self._memory = memoryview(b"")
        self._backing.memory = self._memory
        self._backing.close()

    def __del__(self) -> None:
        # A parked mapping must not stay as this one left it, nor the helper thread run on.
        if hasattr(self, "_gate"):
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _let_go(self) -> None:
        """Of the present address: nobody asks for pages there any more."""
        if self._watcher is not None:
            self._gate.userfaultfd = -1
            self._watcher.stop()
        self._helper.cancel()
        self._helper.drain()
        self._leave_read_ahead()

    def _attend(self, answer: int, offset: int, length: int) -> memoryview:
        """Bytes that the gate could not give by itself."""
        if self._closed:
            raise ValueError("the mapping is closed")
        if answer == OUTSIDE:
            if offset < 0 or length < 0:
                raise ValueError(f"{length} bytes at offset {offset}")
            if offset + length > self.size:
                self._grow(offset, length)
            answer = self._gate.enter(offset, length)
        if answer == ASK:
            # Somebody else is at it: this access goes unseen, rather than wait.
            if self._lock.acquire(blocking=False):
                try:
                    self._map_ahead().access(offset, length)
                except OSError:
                    if not self._closed:
                        raise
                finally:
                    self._lock.release()
        elif answer:
            raise self._backing.why_not(offset, length, self._gate.error)
        memory = self._memory
        if self._closed:  # by another thread meanwhile
            raise ValueError("the mapping is closed")
        return memory[offset : offset + length]

    def _grow(self, offset: int, length: int) -> None:
        """Map what the file has grown by. Raises OSError where that is not enough."""
        size = self._backing.file_size()
        if size is None or self._backing.grow is None or offset + length > size:
            raise self._backing.why_not(offset, length, self._gate.error)
        with self._lock:
            if offset + length > self.size:
                self._let_go()
                before = self._gate
                before.retire()
                self._look_at(self._backing.grow())
                self._gate.carry_on(before)
                if self._ahead is not None:
                    self._ahead.look_at(self._gate, self._residency())
                self._start_watching()

    def _check_range(self, offset: int, length: int) -> None:
        if self._closed:
            raise ValueError("the mapping is closed")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes at offset {offset} of {self.size}")
