"""Strides over what is in memory: the next steps are mapped together with the one that is read."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapped import mapped_pages
from needs import need

from shmbench import policy
from shmbench.measure.eviction import evict, read_in
from shmbench.native.memory import PAGE_BYTES
from shmbench.native.stride_law import StrideLaw

KIB, MIB = 1 << 10, 1 << 20
SIZE = 1 << 30
LENGTH = 8
SURE = 8  # accesses before the one that has made eight equal steps


class Batch(NamedTuple):
    """What was mapped in one go: the index of the access, how many steps, the bytes of a piece."""

    access: int
    steps: int
    piece: int = 0


def walk(
    law: StrideLaw,
    step: int,
    steps: int,
    *,
    start: int = 0,
    fault_bytes: int = 64 * KIB,
    most: int = 1 << 20,
    huge: bool = True,
) -> list[Batch]:
    """Touch what it asks for.

    Args:
        fault_bytes: what a fault maps; 0: all is mapped.
        most: so many steps are touched at once, in the time that there is.
        huge: the pieces that it asks for are in huge pages.
    """
    batches = []
    for number, offset in enumerate(range(start, start + step * steps, step)):
        wanted = law.access(offset, offset + LENGTH, SIZE)
        if law.piece and huge:
            batches.append(Batch(number, 0, law.piece))
            law.populated(offset)
        elif wanted:
            if law.piece:
                law.refused()
            touched = min(wanted, most)
            batches.append(Batch(number, touched))
            faults = touched * min(abs(step), fault_bytes) // fault_bytes if fault_bytes else 0
            law.touched(offset, touched, faults)
    return batches


def test_a_stride_is_touched_in_batches_that_double_and_leave_no_gap() -> None:
    batches = walk(StrideLaw(), 64 * KIB, 4000)
    assert [batch.steps for batch in batches[:9]] == [2, 4, 8, 16, 32, 64, 128, 256, 256]
    assert batches[0].access == SURE
    for batch, following in pairwise(batches):
        assert following.access == batch.access + batch.steps


def test_backwards_too_and_not_beyond_the_beginning() -> None:
    step, steps = 256 * KIB, SIZE // (256 * KIB)
    batches = walk(StrideLaw(), -step, steps, start=SIZE - step)
    assert SURE + sum(batch.steps for batch in batches) == steps


def test_a_batch_is_as_long_as_the_time_that_it_may_take() -> None:
    batches = walk(StrideLaw(), MIB, 1000, most=10)
    assert {batch.steps for batch in batches[3:]} <= {10}


def test_what_was_mapped_in_one_go_is_said_to_be_there() -> None:
    law = StrideLaw()
    there = []
    for offset in range(0, 14 * MIB, MIB):
        wanted = law.access(offset, offset + LENGTH, SIZE)
        there.append(law.there)
        if wanted:
            law.touched(offset, wanted, wanted)
    assert there == [False] * (SURE + 1) + [True] + [False] + [True] * 3


@pytest.mark.parametrize("other", [(0, LENGTH), (9 * MIB, 9 * MIB + 2 * LENGTH)])
def test_another_access_or_a_longer_one_ends_it(other: tuple[int, int]) -> None:
    law = StrideLaw()
    assert len(walk(law, MIB, 9)) == 1
    assert not law.access(*other, SIZE)
    assert not law.there


def test_pages_that_are_mapped_already_are_left_alone() -> None:
    law = StrideLaw()
    batches = walk(law, 64 * KIB, 2000, fault_bytes=0)
    assert sum(batch.steps for batch in batches) < 512
    seldom = walk(law, 64 * KIB, 14000, start=2000 * 64 * KIB, fault_bytes=0)
    assert sum(batch.steps for batch in seldom) < 3 * 512


def test_huge_pages_are_populated_by_the_piece_and_counted_again_now_and_then() -> None:
    law = StrideLaw()
    batches = walk(law, 64 * KIB, SIZE // (64 * KIB), fault_bytes=2 * MIB)
    pieces = [batch.piece for batch in batches if batch.piece]
    assert pieces[:3] == [4 * MIB, 16 * MIB, 64 * MIB]
    assert sum(pieces) + 3 * 8 * MIB > SIZE
    for batch, following in pairwise(batches):
        steps = batch.steps or batch.piece // (64 * KIB)
        assert following.access == batch.access + steps
    longer = walk(StrideLaw(), 32 * KIB, 1 << 17, fault_bytes=2 * MIB)  # 4 GiB, in a way
    assert sum(batch.piece > 0 for batch in longer) > 25


@pytest.mark.parametrize("fault_bytes", [64 * KIB, 512 * KIB])
def test_smaller_ones_are_not(fault_bytes: int) -> None:
    for step in (64 * KIB, MIB, 2 * MIB):
        batches = walk(StrideLaw(), step, 400, fault_bytes=fault_bytes)
        assert not any(batch.piece for batch in batches)


def test_what_is_not_all_in_huge_pages_is_asked_for_ever_more_seldom() -> None:
    law = StrideLaw()
    asked = []
    for number, offset in enumerate(range(0, SIZE, 64 * KIB)):
        wanted = law.access(offset, offset + LENGTH, SIZE)
        if law.piece:
            asked.append(number)
            assert law.piece == 4 * MIB
            law.refused()
        if wanted:
            touched = min(wanted, 128)
            law.touched(offset, touched, touched // 32)
    assert [(b - a) // 128 for a, b in pairwise(asked)][:5] == [2, 3, 5, 9, 17]


@given(st.lists(st.integers(0, (SIZE - 8) // 4096), max_size=300))
def test_no_stride_no_batch(pages: list[int]) -> None:
    law = StrideLaw()
    at = step = 0
    for page in pages:
        if page * 4096 - at != step:
            assert not law.access(page * 4096, page * 4096 + 8, SIZE)
            assert not law.there
            at, step = page * 4096, page * 4096 - at


@pytest.mark.parametrize("step", [8, 4096, 64 * KIB])
def test_neighbours_are_the_law_of_the_window_s(step: int) -> None:
    law = StrideLaw()
    for offset in range(0, 200 * step, step):
        assert not law.access(offset, offset + step, SIZE)


def test_a_batch_of_another_thread_s_access_is_not_counted() -> None:
    law = StrideLaw()
    for offset in range(0, (SURE + 1) * MIB, MIB):
        wanted = law.access(offset, offset + LENGTH, SIZE)
    assert wanted
    law.access(500 * MIB, 500 * MIB + LENGTH, SIZE)
    law.touched(SURE * MIB, wanted, wanted)
    law.access(501 * MIB, 501 * MIB + LENGTH, SIZE)
    assert not law.there


@given(
    st.lists(
        st.tuples(st.integers(-(1 << 22), 1 << 22), st.integers(1, 60), st.booleans()), max_size=20
    ),
    st.integers(1, 1 << 16),
)
def test_what_is_mapped_lies_within_and_holds_what_is_said_to_be_there(
    runs: list[tuple[int, int, bool]], length: int
) -> None:
    law = StrideLaw()
    at = SIZE // 2
    mapped = range(0)
    for step, steps, huge in runs:
        for _ in range(steps):
            at = min(max(0, at + step), SIZE - length)
            wanted = law.access(at, at + length, SIZE)
            if law.there:
                assert at in mapped
                assert at + length - 1 in mapped
            elif wanted and law.piece and huge:
                first = at if law.step > 0 else at + length - law.piece
                mapped = range(first, first + law.piece)
                law.populated(at)
            elif wanted:
                last = at + (wanted - 1) * law.step
                mapped = range(min(at, last), max(at, last) + length)
                law.touched(at, wanted, wanted // 2)
            assert mapped.start >= 0
            assert mapped.stop <= SIZE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(np.random.default_rng(1).bytes(32 * MIB))
    return path


def make_warm(path: Path) -> None:
    with open(path) as file:
        read_in(file.fileno(), 32 * MIB)


def test_a_warm_file_s_strides_give_the_right_bytes(path: Path) -> None:
    make_warm(path)
    content = path.read_bytes()
    with policy.open(path) as mapping:
        for step in (64 * KIB, -64 * KIB, 20 * KIB):
            for offset in range(0, 32 * MIB - 100, abs(step))[:: 1 if step > 0 else -1]:
                assert mapping.read(offset, 100) == content[offset : offset + 100]
        assert mapping.stats().misses == 0


@pytest.mark.parametrize("step", [MIB, -MIB])
def test_the_next_steps_are_mapped_before_they_are_read(path: Path, step: int) -> None:
    make_warm(path)
    begin = 0 if step > 0 else 31 * MIB
    with policy.open(path) as mapping:
        for number in range(11):  # batches of 2 and 4 begin at the ninth and the eleventh
            mapping.read(begin + number * step, 8)
        mapped = mapped_pages(mapping.address, 32 * MIB)
    steps = [mapped[(begin + number * step) // PAGE_BYTES] for number in range(15)]
    assert steps == [True] * 14 + [False]


def test_what_is_not_in_memory_is_waited_for_by_its_own_read(path: Path) -> None:
    """To touch it would be to wait for a page after the other."""
    with policy.open(path) as mapping:
        with open(path) as file:
            proven = evict(file.fileno(), 32 * MIB).proven
        need(proven, "the file can't be evicted", "have temporary files on a disk")
        mapping.advise("random")  # no read-ahead
        steps = range(0, 32 * MIB, 256 * KIB)
        for offset in steps:
            mapping.read(offset, 8)
        assert mapping.stats().bytes_asked["read"] <= len(steps) * 4096


def test_a_file_that_shrinks_during_a_stride_is_an_error(path: Path) -> None:
    make_warm(path)
    with policy.open(path) as mapping:
        for offset in range(0, 16 * MIB, 64 * KIB):
            mapping.read(offset, 8)
        with open(path, "r+") as file:
            file.truncate(8 * MIB)
        with pytest.raises(OSError, match="data"):
            read_on(mapping, 16 * MIB)


def read_on(mapping: policy.Mapping, begin: int) -> None:
    for offset in range(begin, 32 * MIB, 64 * KIB):
        mapping.read(offset, 8)
