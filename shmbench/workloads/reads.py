"""The orders in which a file is read: one class a pattern, all over one base."""

from __future__ import annotations

from shmbench.cases import Case
from shmbench.native.memory import PAGE_BYTES
from shmbench.regions.fixture import FixtureSpec
from shmbench.units import parse_bytes
from shmbench.workloads import patterns
from shmbench.workloads.patterns import Offsets
from shmbench.workloads.reading import ReadingWorkload

_WORK_NS = 600
_TRACE_BYTES = 64 << 20  # a wrong hint may cost a hundred microseconds a page
# A cold access may take a millisecond, a warm one less than a microsecond.
_ACCESSES = {"cold": 2048, "warm": 32768, None: 32768}


class Scan(ReadingWorkload):
    """From the first page to the last, in blocks of 64 KiB.

    one_byte_a_page: the kernel's share is nearly all. all_bytes: 8 bytes at a time are added up.
    work_600ns: one byte a page, and 600 ns of work on it, in which somebody else may prepare the
    next pages.
    """

    name = "scan"
    summary = "read a mapped file from its first page to its last"
    operation = "page"
    variants = ("one_byte_a_page", "all_bytes", "work_600ns")
    length = 16 * PAGE_BYTES

    @classmethod
    def offsets(cls, case: Case) -> Offsets:
        return patterns.sequential(case.file_bytes or 0, cls.length)

    @classmethod
    def step(cls, case: Case) -> int:
        return 0 if case.variant == "all_bytes" else PAGE_BYTES

    @classmethod
    def work_ns(cls, case: Case) -> int:
        return _WORK_NS if case.variant == "work_600ns" else 0

    @classmethod
    def operations(cls, case: Case) -> int:
        return super().operations(case) * cls.length // PAGE_BYTES


class Reverse(ReadingWorkload):
    """From the last page to the first."""

    name = "reverse"
    summary = "read a mapped file from its last page to its first"
    operation = "page"

    @classmethod
    def offsets(cls, case: Case) -> Offsets:
        return patterns.reverse(case.file_bytes or 0, cls.length)


class Strided(ReadingWorkload):
    """A page at every multiple of a stride, as columns of a matrix or records are read."""

    name = "strided"
    summary = "read a page at every 64 KiB, 256 KiB or 1 MiB of a mapped file"
    operation = "page"
    variants = ("64K", "256K", "1M")

    @classmethod
    def offsets(cls, case: Case) -> Offsets:
        stride = parse_bytes(case.variant or "1M")
        return patterns.strided(case.file_bytes or 0, cls.length, stride)


class Streams(ReadingWorkload):
    """Several parts of the file, each read from its beginning, a page of each in turn."""

    name = "streams"
    summary = "read 2 or 8 parts of a mapped file at once, a page of each in turn"
    operation = "page"
    variants = ("2", "8")

    @classmethod
    def offsets(cls, case: Case) -> Offsets:
        return patterns.streams(case.file_bytes or 0, cls.length, int(case.variant or 2))


class RandomRead(ReadingWorkload):
    """Pages of the whole file in random order, each once; all 4 KiB of them are looked at."""

    name = "random_read"
    summary = "read single pages of a mapped file in random order"
    operation = "page"

    @classmethod
    def step(cls, case: Case) -> int:
        return 0

    @classmethod
    def offsets(cls, case: Case) -> Offsets:
        return patterns.random(case.file_bytes or 0, cls.length, _ACCESSES[case.cache])


class Zipf(ReadingWorkload):
    """Pages of the whole file, a few often and most hardly ever, as caches see them."""

    name = "zipf"
    summary = "read single pages of a mapped file, some far more often than others"
    operation = "page"

    @classmethod
    def offsets(cls, case: Case) -> Offsets:
        return patterns.zipf(case.file_bytes or 0, cls.length, _ACCESSES[case.cache])


class Trace(ReadingWorkload):
    """A pattern or a trace over a file of the user's: what `shmbench tune` measures.

    The case's directory is the path of the file, its variant the pattern as `patterns.named` takes
    it, and message_bytes the length of an access. The file is opened for reading only.
    """

    name = "trace"
    summary = "a pattern or a trace over a file of yours: see `shmbench tune`"
    operation = "access"
    variants = ()  # no run has it
    regions = ("file",)

    @classmethod
    def fixture(cls, case: Case) -> FixtureSpec | None:
        assert case.directory is not None
        return FixtureSpec(None, case.file_bytes or 0, existing=case.directory)

    @classmethod
    def access_bytes(cls, case: Case) -> int:
        return case.message_bytes or PAGE_BYTES

    @classmethod
    def offsets(cls, case: Case) -> Offsets:
        assert case.variant is not None
        length = cls.access_bytes(case)
        count = _ACCESSES[case.cache] // 2  # all policies several times, in a minute
        found = patterns.named(case.variant, case.file_bytes or 0, length, count)
        return found[: max(count, _TRACE_BYTES // length)]
