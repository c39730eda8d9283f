"""Giving hints to the kernel: one range, many ranges, and which of them this kernel takes.

What the kernel refuses raises or is returned, as the caller chooses; it is never swallowed.
"""

import errno as errno_names
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shmbench.errors import Unavailable, UsageError
from shmbench.native import memory
from shmbench.native.memory import PAGE_BYTES
from shmbench.policy.hint_table import Hint, Lasting, Meaning

__all__ = [
    "Hint",
    "HintLike",
    "Lasting",
    "Meaning",
    "OnRefusal",
    "Refusal",
    "Strided",
    "advise",
    "advise_many",
    "hint_of",
    "strided",
    "supported",
]

OnRefusal = Literal["raise", "record"]

# Below this step, read-ahead and fault-around bring the next steps along: 34 us an access at
# 64 KiB, where each page by itself (RANDOM) takes 86 to 150.
_STRIDE_LEAST_BYTES = 64 << 10
_RANGES_A_CALL = 1024  # UIO_MAXIOV
_FEW_RANGES = 8  # process_madvise wants a pidfd first: for fewer, madvise each is as fast
_PAGE_MASK = -PAGE_BYTES
_BY_NAME: dict[str, Hint] = {hint.value: hint for hint in Hint}
_HUGE_PAGE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_LATER = {errno_names.EAGAIN, errno_names.EBUSY, errno_names.ENOMEM}  # it exists, but not now


@dataclass(frozen=True)
class Strided:
    """Hint.STRIDED with its step in bytes, negative for backwards."""

    step_bytes: int


HintLike = Hint | Strided | str


def strided(step_bytes: int) -> Strided:
    """Read in equal steps.

    Args:
        step_bytes: from the start of one access to the start of the next; negative: backwards.

    Raises:
        ValueError: a step of 0.
    """
    if step_bytes == 0:
        raise ValueError("a stride of 0 bytes")
    return Strided(step_bytes)


def hint_of(hint: HintLike) -> Hint:
    """The member that a hint, a hint with a step, or a hint's name stands for.

    Raises:
        UsageError: no hint has that name.
    """
    if isinstance(hint, Hint):
        return hint
    if isinstance(hint, Strided):
        return Hint.STRIDED
    if hint not in _BY_NAME:
        raise UsageError(f"no hint is named {hint!r}", f"use one of: {', '.join(_BY_NAME)}")
    return _BY_NAME[hint]


def _advice_of(hint: HintLike) -> int | None:
    if isinstance(hint, Strided) and abs(hint.step_bytes) < _STRIDE_LEAST_BYTES:
        return Hint.NORMAL.advice
    return hint_of(hint).advice


@dataclass(frozen=True)
class Refusal:
    """A hint that the kernel did not take.

    Attributes:
        hint: what was asked for.
        errno: why not.
        name: of that errno: "EINVAL".
        message: one line: what, where, why, and what to do instead.
        address: of the first page.
        length: in bytes, whole pages.
    """

    hint: Hint
    errno: int
    name: str
    message: str
    address: int
    length: int

    @classmethod
    def of(cls, hint: Hint, number: int, address: int, length: int) -> "Refusal":
        name = errno_names.errorcode.get(number, str(number))
        meaning = hint.meaning
        since = "" if meaning.since is None else f"; since Linux {_dotted(meaning.since)}"
        return cls(
            hint,
            number,
            name,
            f"{hint.value} was refused for {length} bytes at {address:#x}: {name},"
            f" {os.strerror(number)}; it is for {meaning.on}{since}; where missing:"
            f" {meaning.missing}",
            address,
            length,
        )

    def as_error(self) -> OSError:
        """To raise: OSError, or its subclass for this errno."""
        return OSError(self.errno, self.message)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _whole_pages(address: int, length: int, within: bool) -> tuple[int, int]:
    """The pages that hold the range, or only those that lie wholly within it."""
    if length < 0:
        raise ValueError(f"no such range: {length} bytes")
    stop = address + length
    if within:
        start = (address + PAGE_BYTES - 1) & _PAGE_MASK
        return start, max(0, (stop & _PAGE_MASK) - start)
    start = address & _PAGE_MASK
    return start, ((stop + PAGE_BYTES - 1) & _PAGE_MASK) - start


def advise(
    address: int, length: int, hint: HintLike, *, on_refusal: OnRefusal = "raise"
) -> Refusal | None:
    """madvise(2) for the pages of a range of our own memory.

    Args:
        address: of the first byte, anywhere in a page. A range is widened to whole pages; for a
            hint that discards content, it is narrowed to them, and nothing is done to none.
        length: in bytes.
        hint: a Hint, its name, or `strided(step_bytes)`.
        on_refusal: "raise", or "record": give what the kernel refused back.

    Raises:
        OSError: refused: which hint, where, why, and what to do instead.
        UsageError: no such hint.
    """
    known, advice = hint_of(hint), _advice_of(hint)
    start, size = _whole_pages(address, length, known.meaning.discards)
    if advice is None or length == 0 or size == 0:
        return None
    try:
        memory.madvise(start, size, advice)
    except OSError as error:
        refusal = Refusal.of(known, error.errno or 0, start, size)
        if on_refusal == "raise":
            raise refusal.as_error() from None
        return refusal
    return None


def advise_many(
    ranges: Iterable[tuple[int, int]], hint: HintLike, *, on_refusal: OnRefusal = "raise"
) -> list[Refusal]:
    """One hint for many ranges: a system call for 1024 of them, where the kernel has that.

    process_madvise(2) on ourselves: WILLNEED, COLD and PAGEOUT since Linux 5.10 (privileged before
    5.18), COLLAPSE since 6.1, all hints since 6.13. Elsewhere, and from the first call on in which
    a range is refused, it is one madvise(2) a range, which tells which range it was.

    Args:
        ranges: (address, length in bytes), as for `advise`.
        hint: as for `advise`.
        on_refusal: "raise" at the first, or "record": go on, and give all of them back.

    Raises:
        OSError: refused; the ranges before it have been advised.
        UsageError: no such hint.
    """
    known, advice = hint_of(hint), _advice_of(hint)
    if advice is None:
        return []
    within = known.meaning.discards
    pages = [_whole_pages(address, length, within) for address, length in ranges if length]
    done = _advise_batches(pages, advice) if len(pages) >= _FEW_RANGES else 0
    refusals = (advise(start, size, hint, on_refusal=on_refusal) for start, size in pages[done:])
    return [refusal for refusal in refusals if refusal is not None]


def _advise_batches(pages: Sequence[tuple[int, int]], advice: int) -> int:
    """How many of the ranges process_madvise took: a multiple of 1024, or all of them."""
    done = 0
    # OSError: the kernel lacks pidfd_open or process_madvise, doesn't take this hint through it,
    # or refused a range. madvise, range by range, finds out which.
    with suppress(OSError):
        pidfd = os.pidfd_open(os.getpid())
        try:
            while done < len(pages):
                batch = pages[done : done + _RANGES_A_CALL]
                memory.process_madvise(pidfd, batch, advice)
                done += len(batch)
        finally:
            os.close(pidfd)
    return done


def supported() -> dict[Hint, Unavailable | None]:
    """Each hint, tried on memory of its own: None where this kernel takes it, else why not."""
    return {hint: _probe(hint) for hint in Hint}


def _probe(hint: Hint) -> Unavailable | None:
    if hint.advice is None:
        return None
    length = PAGE_BYTES
    if hint is Hint.COLLAPSE:
        length = int(_HUGE_PAGE.read_text()) if _HUGE_PAGE.exists() else 2 << 20
    sharing = memory.MAP_SHARED if hint is Hint.REMOVE else memory.MAP_PRIVATE
    scratch = memory.Mapping(length, flags=sharing | memory.MAP_ANONYMOUS, alignment=length)
    try:
        memory.touch_write(scratch.address, length)
        refusal = advise(scratch.address, length, hint, on_refusal="record")
    finally:
        scratch.close()
    if refusal is None or refusal.errno in _LATER:
        return None
    since = "" if hint.meaning.since is None else f", it came with {_dotted(hint.meaning.since)}"
    return Unavailable(
        f"{hint.value}: Linux {os.uname().release} refuses it ({refusal.name}){since}",
        hint.meaning.missing,
    )
