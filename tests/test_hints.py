"""Hints: what each does, on real memory; what is refused is raised or recorded."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from needs import need

from shmbench.errors import UsageError
from shmbench.native import memory
from shmbench.policy import hints
from shmbench.policy.hints import Hint, Lasting, advise, advise_many, hint_of, strided, supported

PAGE = memory.PAGE_BYTES
PRIVATE = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS
SHARED = memory.MAP_SHARED | memory.MAP_ANONYMOUS
BATCHED = 3000  # ranges: three system calls


def mapped(pages: int, flags: int) -> memory.Mapping:
    mapping = memory.Mapping(pages * PAGE, flags=flags)
    memory.fill(mapping.address, mapping.length, 7)
    return mapping


@pytest.fixture
def private() -> Iterator[memory.Mapping]:
    mapping = mapped(4, PRIVATE)
    yield mapping
    mapping.close()


@pytest.fixture
def shared() -> Iterator[memory.Mapping]:
    mapping = mapped(4, SHARED)
    yield mapping
    mapping.close()


def flags_of(address: int) -> list[str]:
    """VmFlags in smaps (proc(5)): sr sequential, rr random, dc not in a child, hg huge pages."""
    found = re.search(
        rf"^{address:x}-.*?^VmFlags: ([^\n]*)", Path("/proc/self/smaps").read_text(), re.M | re.S
    )
    assert found is not None
    return found[1].split()


@pytest.mark.parametrize("hint", Hint)
def test_every_hint_says_what_it_does_where_and_what_happens_without_it(hint: Hint) -> None:
    meaning = hint.meaning
    assert all((meaning.name, meaning.does, meaning.on, meaning.missing))
    assert hint.ours == (meaning.since is None)
    assert Hint(hint.name.lower()) is hint_of(meaning.name) is hint


def test_every_hint_is_tried_and_what_is_missing_says_since_when_and_what_instead() -> None:
    found = supported()
    assert list(found) == list(Hint)
    assert found[Hint.NORMAL] is found[Hint.WILLNEED] is found[Hint.DONTNEED] is None
    assert all(found[hint] is None for hint in Hint if hint.ours)
    for hint, why in found.items():
        if why is not None:
            assert hint.value in why.message
            assert why.remedy == hint.meaning.missing


def test_a_hint_that_the_kernel_does_not_know_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(Hint.COLD.meaning), "advice", 9999)
    why = supported()[Hint.COLD]
    assert why is not None
    assert "EINVAL" in why.message
    assert "5.4" in why.message


@pytest.mark.parametrize(
    ("hint", "flag"),
    [
        (Hint.SEQUENTIAL, "sr"),
        (Hint.RANDOM, "rr"),
        (Hint.SEQUENTIAL_ONCE, "sr"),
        (Hint.STRIDED, "rr"),
        (Hint.GUIDED, "rr"),
        (strided(1 << 20), "rr"),
        (strided(-1 << 20), "rr"),
        ("random", "rr"),
    ],
)
def test_what_lasts_is_seen_in_the_mapping_until_normal_undoes_it(
    private: memory.Mapping, hint: hints.HintLike, flag: str
) -> None:
    assert hint_of(hint).lasting is Lasting.READ_AHEAD
    advise(private.address, private.length, hint)
    assert flag in flags_of(private.address)
    advise(private.address, private.length, Hint.NORMAL)
    assert not {"sr", "rr"} & set(flags_of(private.address))


@pytest.mark.parametrize("hint", [Hint.REVERSE, Hint.AUTO, strided(4096)])
def test_where_the_kernels_own_read_ahead_is_better_it_is_told_normal(
    private: memory.Mapping, hint: hints.HintLike
) -> None:
    advise(private.address, private.length, Hint.SEQUENTIAL)
    advise(private.address, private.length, hint)
    assert not {"sr", "rr"} & set(flags_of(private.address))


@pytest.mark.parametrize("hint", [Hint.NONE, Hint.KEEP])
def test_some_of_our_hints_tell_the_kernel_nothing(hint: Hint) -> None:
    assert advise(0, PAGE, hint) is None
    assert advise_many([(0, PAGE)], hint) == []


def test_every_hint_that_leaves_something_in_the_mapping_is_marked() -> None:
    there = supported()
    for hint in Hint:
        if hint.ours or hint.meaning.discards or there[hint] is not None:
            continue
        mapping = mapped(1, PRIVATE)
        before = set(flags_of(mapping.address))
        refused = advise(mapping.address, PAGE, hint, on_refusal="record")
        if refused is None and set(flags_of(mapping.address)) != before:
            assert hint.lasting is not Lasting.NO, hint
        mapping.close()


def test_populating_makes_pages_present() -> None:
    need(supported()[Hint.POPULATE_READ] is None, "no MADV_POPULATE_READ", "Linux 5.14 has it")
    fresh = memory.Mapping(8 * PAGE, flags=SHARED)
    advise(fresh.address, fresh.length, Hint.POPULATE_WRITE)
    assert sum(memory.mincore(fresh.address, fresh.length)) == 8
    fresh.close()


def test_removing_punches_a_hole_into_shared_memory(shared: memory.Mapping) -> None:
    advise(shared.address + PAGE, PAGE, Hint.REMOVE)
    assert bytes(shared.view())[PAGE : 2 * PAGE] == bytes(PAGE)
    assert bytes(shared.view())[:PAGE] == b"\7" * PAGE


@given(st.integers(0, 4 * PAGE), st.integers(0, 4 * PAGE))
def test_discarding_spares_every_byte_outside_of_the_range(start: int, stop: int) -> None:
    start, stop = min(start, stop), max(start, stop)
    mapping = mapped(4, PRIVATE)
    advise(mapping.address + start, stop - start, Hint.DONTNEED)
    expected = bytearray(b"\7" * mapping.length)
    first, last = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
    if first < last:
        expected[first:last] = bytes(last - first)
    assert bytes(mapping.view()) == expected
    mapping.close()


def test_a_range_is_widened_to_the_pages_that_hold_it() -> None:
    need(supported()[Hint.POPULATE_WRITE] is None, "no MADV_POPULATE_WRITE", "Linux 5.14 has it")
    fresh = memory.Mapping(4 * PAGE, flags=SHARED)
    advise(fresh.address + PAGE + 10, PAGE, Hint.POPULATE_WRITE)
    assert list(memory.mincore(fresh.address, fresh.length)) == [0, 1, 1, 0]
    fresh.close()


def test_a_refusal_raises_what_where_why_and_what_instead(shared: memory.Mapping) -> None:
    with pytest.raises(OSError, match="free was refused") as caught:
        advise(shared.address, 2 * PAGE, Hint.FREE)
    assert caught.value.errno == errno.EINVAL
    for part in ("8192 bytes", f"{shared.address:#x}", "EINVAL", "private anonymous", "Linux 4.5"):
        assert part in str(caught.value)


def test_a_refusal_is_recorded_where_that_is_wanted(shared: memory.Mapping) -> None:
    refusal = advise(shared.address, 2 * PAGE, "free", on_refusal="record")
    assert refusal is not None
    assert (refusal.hint, refusal.errno, refusal.name) == (Hint.FREE, errno.EINVAL, "EINVAL")
    assert (refusal.address, refusal.length) == (shared.address, 2 * PAGE)


def test_what_is_no_hint_or_no_range_is_refused_by_name(private: memory.Mapping) -> None:
    with pytest.raises(UsageError, match=r"'fast'.*willneed"):
        advise(private.address, PAGE, "fast")
    with pytest.raises(ValueError, match="-1 bytes"):
        advise(private.address, -1, Hint.WILLNEED)
    with pytest.raises(ValueError, match="stride of 0"):
        strided(0)


def without_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(pid: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", missing)


@pytest.mark.parametrize("batches", [True, False])
def test_many_ranges_are_all_advised_and_nothing_else(
    batches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not batches:
        without_batches(monkeypatch)
    mapping = mapped(2 * BATCHED, PRIVATE)
    ranges = [(mapping.address + 2 * i * PAGE, PAGE) for i in range(BATCHED)]
    assert advise_many(ranges, Hint.DONTNEED) == []
    assert bytes(mapping.view()) == (bytes(PAGE) + b"\7" * PAGE) * BATCHED
    mapping.close()


@pytest.mark.parametrize("batches", [True, False])
def test_of_many_ranges_exactly_the_refused_ones_are_recorded(
    batches: bool, monkeypatch: pytest.MonkeyPatch, shared: memory.Mapping
) -> None:
    if not batches:
        without_batches(monkeypatch)
    mapping = mapped(2 * BATCHED, PRIVATE)
    ranges = [(mapping.address + 2 * i * PAGE, PAGE) for i in range(BATCHED)]
    ranges[1500] = ranges[2900] = (shared.address, PAGE)
    refusals = advise_many(ranges, Hint.WIPEONFORK, on_refusal="record")
    assert [(each.address, each.name) for each in refusals] == [(shared.address, "EINVAL")] * 2
    assert "wf" in flags_of(ranges[-1][0])
    with pytest.raises(OSError, match="wipeonfork was refused"):
        advise_many(ranges, Hint.WIPEONFORK)
    mapping.close()


def test_no_descriptor_is_left_by_batches(private: memory.Mapping) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    advise_many([(private.address, PAGE)] * 20, Hint.WILLNEED)
    advise_many([(private.address, PAGE)] * 20, Hint.REMOVE, on_refusal="record")
    assert sorted(Path("/proc/self/fd").iterdir()) == before
