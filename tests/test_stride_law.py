"""Strides over what is in memory: mapped ahead as long as that is cheaper than their faults."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmbench import policy
from shmbench.measure.eviction import evict, read_in
from shmbench.native.stride_law import StrideLaw

KIB, MIB = 1 << 10, 1 << 20
SIZE = 1 << 30
FAULT_NS = 500


def walk(
    law: StrideLaw,
    step: int,
    steps: int,
    ns_a_mib: float,
    *,
    start: int = 0,
    fault_ns: int = FAULT_NS,
) -> tuple[list[tuple[int, int]], int]:
    """What it had mapped, and how many accesses it timed."""
    mapped, timed = [], 0
    for offset in range(start, start + step * steps, step):
        if law.access(offset, offset + 8, SIZE):
            mapped.append((law.start, law.length))
            law.mapped(int(ns_a_mib * law.length / MIB))
        if law.timing:
            timed += 1
            law.touched(fault_ns)
    return mapped, timed


def test_a_stride_is_mapped_ahead_in_growing_pieces_without_gaps() -> None:
    mapped, timed = walk(StrideLaw(), 64 * KIB, SIZE // (64 * KIB), ns_a_mib=2000)
    assert timed == 16
    assert [length for _, length in mapped[:4]] == [256 * KIB, MIB, 4 * MIB, 16 * MIB]
    assert max(length for _, length in mapped) == 16 * MIB
    for (start, length), (following, _) in pairwise(mapped):
        assert start + length == following
    assert sum(length for _, length in mapped) > 0.99 * SIZE - 2 * MIB


def test_backwards_too() -> None:
    step = 256 * KIB
    mapped, _ = walk(StrideLaw(), -step, SIZE // step, ns_a_mib=500, start=SIZE - step)
    assert mapped
    for (start, _), (following, length) in pairwise(mapped):
        assert start - step < following + length <= start
    assert min(start for start, _ in mapped) == 0


@pytest.mark.parametrize(
    ("step", "ns_a_mib"),
    [(64 * KIB, 85_000), (MIB, 85_000)],
    ids=["small folios", "few pages of each MiB"],
)
def test_what_costs_more_than_the_faults_is_tried_seldom(step: int, ns_a_mib: float) -> None:
    law = StrideLaw()
    mapped, timed = walk(law, step, 64, ns_a_mib)
    assert len(mapped) == 1
    steps = SIZE // (64 * KIB)
    mapped, timed = walk(law, 64 * KIB, steps, 85_000)
    assert len(mapped) <= 5
    assert timed <= 5 * 16


def test_it_stops_when_mapping_becomes_dear() -> None:
    law = StrideLaw()
    assert len(walk(law, 64 * KIB, 200, 2000)[0]) == 4
    mapped, _ = walk(law, 64 * KIB, 1000, 20000, start=200 * 64 * KIB)
    assert len(mapped) == 1


def test_one_interrupted_call_is_forgiven() -> None:
    law = StrideLaw()
    assert len(walk(law, 64 * KIB, 200, 2000)[0]) == 4
    interrupted, _ = walk(law, 64 * KIB, 250, 8000, start=200 * 64 * KIB)
    assert len(interrupted) == 1
    assert len(walk(law, 64 * KIB, 1000, 2000, start=450 * 64 * KIB)[0]) > 1


@pytest.mark.parametrize("backwards", [False, True])
def test_few_steps_are_not_worth_an_attempt(backwards: bool) -> None:
    few, many = 64, 1000  # of 500 ns
    for steps, attempts in ((few, 0), (many, 1)):
        step = -MIB if backwards else MIB
        start = steps * MIB if backwards else SIZE - steps * MIB
        mapped, timed = walk(StrideLaw(), step, steps, 85_000, start=start)
        assert (len(mapped), timed) == (attempts, 16 * attempts)
    mapped, timed = walk(StrideLaw(), MIB, 300, 85_000, start=SIZE - 300 * MIB)
    assert (len(mapped), timed) == (0, 16)


def test_pages_that_are_mapped_already_are_left_alone() -> None:
    mapped, _ = walk(StrideLaw(), 64 * KIB, 1000, 2000, fault_ns=60)
    assert not mapped


@given(st.lists(st.integers(0, (SIZE - 8) // 4096), max_size=300))
def test_no_stride_no_mapping(pages: list[int]) -> None:
    law = StrideLaw()
    at = step = 0
    for page in pages:
        if page * 4096 - at != step:
            assert not law.access(page * 4096, page * 4096 + 8, SIZE)
            assert not law.timing
            at, step = page * 4096, page * 4096 - at


@pytest.mark.parametrize("step", [8, 4096, 64 * KIB])
def test_neighbours_are_the_law_of_the_window_s(step: int) -> None:
    law = StrideLaw()
    for offset in range(0, 200 * step, step):
        assert not law.access(offset, offset + step, SIZE)
        assert not law.timing


@given(
    st.lists(st.tuples(st.integers(-(1 << 22), 1 << 22), st.integers(1, 60)), max_size=20),
    st.integers(1, 1 << 16),
)
def test_what_is_mapped_lies_within_and_holds_the_access(
    runs: list[tuple[int, int]], length: int
) -> None:
    law = StrideLaw()
    at = SIZE // 2
    for step, steps in runs:
        for _ in range(steps):
            at = min(max(0, at + step), SIZE - length)
            if law.access(at, at + length, SIZE):
                assert 0 <= law.start <= at
                assert law.start + law.length <= SIZE
                assert at + length <= law.start + law.length
                law.mapped(0)
            law.touched(FAULT_NS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(np.random.default_rng(1).bytes(32 * MIB))
    return path


def test_a_warm_file_s_strides_give_the_right_bytes(path: Path) -> None:
    with open(path) as file:
        read_in(file.fileno(), 32 * MIB)
    content = path.read_bytes()
    with policy.open(path) as mapping:
        for step in (64 * KIB, -64 * KIB, 20 * KIB):
            for offset in range(0, 32 * MIB - 100, abs(step))[:: 1 if step > 0 else -1]:
                assert mapping.read(offset, 100) == content[offset : offset + 100]
        assert mapping.stats().misses == 0


def test_nothing_is_mapped_of_what_is_not_in_memory(path: Path) -> None:
    """It would have to be read in, page by page."""
    with policy.open(path) as mapping:
        with open(path) as file:
            if not evict(file.fileno(), 32 * MIB).proven:
                pytest.skip("the file can't be evicted: have temporary files on a disk")
        mapping.advise("random")  # no read-ahead
        steps = range(0, 32 * MIB, 256 * KIB)
        for offset in steps:
            mapping.read(offset, 8)
        assert mapping.stats().bytes_asked["read"] <= len(steps) * 4096


def test_a_file_that_shrinks_during_a_stride_is_an_error(path: Path) -> None:
    with open(path) as file:
        read_in(file.fileno(), 32 * MIB)
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
