"""The law of the window, by its invariants: no mapping, no clock."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from shmbench.policy.window import Law, Prefetch

TOTAL = 1 << 16
ACCESSES = st.lists(st.tuples(st.integers(0, TOTAL - 9), st.integers(1, 8)), max_size=200)


def run(law: Law, accesses):
    return [law.access(first, pages) for first, pages in accesses]


def forward(start, count, pages=1):
    return [(start + i * pages, pages) for i in range(count)]


def covered(pieces):
    return [page for p in pieces for page in range(p.first_page, p.first_page + p.pages)]


def test_a_window_doubles_up_to_its_maximum_while_access_is_sequential():
    law = Law(total_pages=TOTAL, window_min=16, window_max=256)
    asked = [piece.pages for pieces in run(law, forward(0, 3000)) for piece in pieces]
    assert asked[:6] == [16, 32, 64, 128, 256, 256]
    assert set(asked[5:]) == {256}


def test_every_page_of_a_sequential_run_is_asked_for_once_and_before_its_use():
    law = Law(total_pages=TOTAL)
    seen: set[int] = set()
    for i, pieces in enumerate(run(law, forward(100, 5000))):
        assert i < 2 or 100 + i in seen
        fresh = covered(pieces)
        assert seen.isdisjoint(fresh)
        assert fresh == sorted(fresh)
        seen.update(fresh)


@given(start=st.integers(0, 1000), count=st.integers(2, 400), pages=st.integers(1, 32))
def test_at_most_two_windows_are_ahead_of_a_sequential_stream(start, count, pages):
    law = Law(window_max=64)
    for first, n in forward(start, count, pages):
        law.access(first, n)
        assert all(s.edge - (s.at + s.pages) <= 2 * 64 for s in law.streams)


@given(accesses=ACCESSES)
def test_nothing_is_asked_for_outside_of_the_range_and_windows_keep_their_bounds(accesses):
    law = Law(total_pages=TOTAL, window_min=4, window_max=64, steps_min=2, steps_max=32, streams=3)
    for first, pages in accesses:
        for piece in law.access(first, pages):
            assert piece.pages >= 1
            assert piece.first_page >= 0
            assert piece.first_page + piece.pages <= TOTAL
        assert len(law.streams) <= 3
        for stream in law.streams:
            low, high = (2, 32) if stream.step else (4, 64)
            assert low <= stream.window <= high
    assert law.pages_cancelled <= law.pages_asked + 64 * law.accesses
    assert law.accesses == len(accesses)


@given(
    steps=st.lists(st.sampled_from([1, 1, 2, 3, 5, 40, 300]), max_size=60),
    pages=st.integers(1, 4),
)
def test_a_mirrored_program_gets_mirrored_prefetches(steps, pages):
    at, accesses = TOTAL // 2, []
    for step in steps:
        at = max(0, min(TOTAL - pages, at + step * pages))
        accesses.append((at, pages))
    mirrored = [(TOTAL - first - n, n) for first, n in accesses]
    one = run(Law(total_pages=TOTAL), accesses)
    other = run(Law(total_pages=TOTAL), mirrored)
    assert other == [
        [Prefetch(TOTAL - p.first_page - p.pages, p.pages, -p.direction) for p in pieces]
        for pieces in one
    ]


@given(kinds=st.lists(st.sampled_from([1, -1, 256, 64]), min_size=2, max_size=8))
def test_interleaved_streams_get_what_each_gets_alone(kinds):
    # Far from each other, and at distances that make no progression of their own.
    count = 40
    streams = [
        [((k + 1) * (k + 3) * 100_000 + 50_000 + step * i, 1) for i in range(count)]
        for k, step in enumerate(kinds)
    ]
    together = Law(memory=64)
    got = [[] for _ in streams]
    for i in range(count):
        for k, stream in enumerate(streams):
            got[k] += together.access(*stream[i])
    for k, stream in enumerate(streams):
        alone = [p for pieces in run(Law(), stream) for p in pieces]
        # Other streams' first accesses may have kept a window small: the same pages, other pieces.
        one, other = (sorted(covered(p), reverse=kinds[k] < 0) for p in (alone, got[k]))
        length = min(len(one), len(other))
        assert one[:length] == other[:length]
        assert length >= 40


@settings(max_examples=30)
@given(seed=st.integers().map(random.Random))
def test_random_access_ends_all_streams_and_asks_for_nothing(seed):
    law = Law(total_pages=1 << 30)
    run(law, forward(0, 500))
    asked = law.pages_asked
    run(law, [(seed.randrange(1 << 20, 1 << 30), 1) for _ in range(100)])
    assert law.random
    assert law.streams == []
    assert law.pages_asked == asked
    assert 0 < law.pages_cancelled < asked


def test_sequential_access_ends_what_was_random():
    law = Law()
    run(law, [(i * i * 977 + 13, 1) for i in range(50)])
    assert law.random
    run(law, forward(10_000_000, 6))
    assert not law.random


@settings(max_examples=50)
@given(step=st.sampled_from([-256, -64, 9, 16, 64, 256]), pages=st.integers(1, 4))
def test_a_stride_is_known_after_four_accesses_and_kept_hundreds_of_steps_ahead(step, pages):
    start = TOTAL // 2
    law = Law(steps_max=512, total_pages=None)
    accesses = [(start + abs(step) * 1000 + step * i, pages) for i in range(100)]
    got = run(law, accesses)
    assert got[:3] == [[], [], []]
    assert got[3] != []
    pieces = [p for asked in got for p in asked]
    assert [p.first_page for p in pieces] == [
        accesses[3][0] + step * (k + 1) for k in range(len(pieces))
    ]
    assert all(p.pages == pages for p in pieces)
    assert 512 - 512 // 8 <= len(pieces) - 96 <= 512


def test_a_stride_that_is_known_beforehand_needs_two_accesses():
    law = Law(step=256)
    assert law.access(0, 1) == []
    assert law.access(256, 1) != []


def test_long_strided_accesses_stay_within_the_budget():
    law = Law(budget_pages=1024)
    for i in range(50):
        law.access(i * 1024, 256)
        assert all(s.unused_pages() <= 1024 for s in law.streams)


def test_a_law_that_hears_nothing_of_quiet_accesses_asks_for_the_same():
    told, spared = Law(total_pages=TOTAL), Law(total_pages=TOTAL)
    quiet = (0, 0)
    calls = 0
    heard: list[Prefetch] = []
    for first, pages in forward(0, 20_000):
        heard += told.access(first, pages)
        if quiet[0] <= first and first + pages <= quiet[1]:
            continue
        calls += 1
        spared.access(first, pages)
        quiet = spared.quiet()
    assert calls < 100
    assert abs(spared.pages_asked - told.pages_asked) <= 1024
    assert len(heard) == told.windows


def test_reads_smaller_than_a_page_are_one_stream():
    law = Law()
    asked = [
        law.access(at // 4096, (at + 999) // 4096 - at // 4096 + 1) for at in range(0, 10**6, 1000)
    ]
    assert len(law.streams) == 1
    assert law.pages_cancelled == 0
    assert sum(map(len, asked)) >= 4
