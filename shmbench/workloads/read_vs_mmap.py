"""read_vs_mmap: the same bytes by pread, by preadv, and by a mapping."""

from __future__ import annotations

import os

from shmbench.cases import Case
from shmbench.native.clock import monotonic_ns
from shmbench.native.memory import PAGE_BYTES
from shmbench.workloads import Context, patterns
from shmbench.workloads.patterns import Offsets
from shmbench.workloads.reading import ReadingWorkload

_BLOCK_BYTES = 64 << 10
_PIECES = 16


class ReadVsMmap(ReadingWorkload):
    """A file from its beginning to its end, in blocks; all bytes are added up.

    pread copies each block into one buffer, preadv into 16 of 4 KiB each. mmap is the policy none.
    """

    name = "read_vs_mmap"
    summary = "read a whole file by pread, by preadv, or through a mapping"
    operation = "page"
    variants = ("pread", "preadv", "mmap")
    policies = ("none",)
    warm_limit = None
    length = _BLOCK_BYTES

    @classmethod
    def step(cls, case: Case) -> int:
        return 0

    @classmethod
    def offsets(cls, case: Case) -> Offsets:
        return patterns.sequential(case.file_bytes or 0, cls.length)

    @classmethod
    def operations(cls, case: Case) -> int:
        return super().operations(case) * _BLOCK_BYTES // PAGE_BYTES

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._buffer = bytearray(_BLOCK_BYTES)

    def make_pass(self) -> int:
        if self.case.variant == "mmap":
            return super().make_pass()
        pieces = _PIECES if self.case.variant == "preadv" else 0
        start = monotonic_ns()
        fd = os.open(self.file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self.case.driver == "native":
                self.consumer.take_file(fd, self._buffer, self.target.offsets, pieces)
            else:
                self._read(fd, pieces)
        finally:
            os.close(fd)
        return monotonic_ns() - start

    def _read(self, fd: int, pieces: int) -> None:
        take, buffer = self.consumer.take, self._buffer
        whole = memoryview(buffer)
        parts = [whole]
        if pieces:
            size = _BLOCK_BYTES // pieces
            parts = [whole[i * size : (i + 1) * size] for i in range(pieces)]
        for offset in self.target.offsets.tolist():
            os.preadv(fd, parts, offset)
            take(buffer)
