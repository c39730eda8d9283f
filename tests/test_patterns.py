"""Orders of accesses: whole, within the file, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmbench.errors import UsageError
from shmbench.workloads import patterns

SIZES = st.integers(1, 4096).map(lambda pages: pages * 4096 + 77)
NAMED = st.sampled_from(
    ["sequential", "reverse", "strided", "strided:64K", "streams", "streams:8", "random", "zipf"]
)


@given(pattern=NAMED, size=SIZES, length=st.sampled_from([512, 4096]))
def test_every_access_lies_within_the_file_and_comes_again_the_same(pattern, size, length):
    found = patterns.named(pattern, size, length, 100)
    assert found.dtype == np.int64
    assert found.flags.c_contiguous
    if len(found):
        assert found.min() >= 0
        assert found.max() + length <= size
    assert (found == patterns.named(pattern, size, length, 100)).all()


@given(size=SIZES)
def test_reverse_is_sequential_backwards(size):
    forwards = patterns.sequential(size, 4096)
    assert (patterns.reverse(size, 4096) == forwards[::-1]).all()
    assert len(forwards) == size // 4096


@given(size=SIZES, count=st.integers(1, 16))
def test_each_stream_is_sequential_and_has_every_nth_access(size, count):
    found = patterns.streams(size, 4096, count)
    assert len(found) == size // 4096 // count * count
    for stream in range(count):
        own = found[stream::count]
        assert (np.diff(own) == 4096).all()
    assert len(np.unique(found)) == len(found)


@given(size=SIZES, count=st.integers(1, 200))
def test_random_takes_no_block_twice(size, count):
    found = patterns.random(size, 4096, count)
    assert len(found) == min(count, size // 4096) == len(np.unique(found))


def test_zipf_takes_few_blocks_often():
    found = patterns.zipf(64 << 20, 4096, 20_000)
    _, counts = np.unique(found, return_counts=True)
    assert np.sort(counts)[-160:].sum() > 0.3 * len(found)  # one block in a hundred


def test_a_trace_is_read_from_text_and_from_npy(tmp_path):
    offsets = np.array([8192, 0, 4096])
    np.save(tmp_path / "trace.npy", offsets)
    (tmp_path / "trace.txt").write_text("8192\n0\n4096\n")
    for name in ("trace.npy", "trace.txt"):
        found = patterns.named(str(tmp_path / name), 12288, 4096, 0)
        assert found.tolist() == offsets.tolist()


@pytest.mark.parametrize("content", ["", "12.5\n", "one\n", "-4096\n", "8193\n", "9" * 30])
def test_a_trace_that_does_not_fit_is_refused_by_its_name(tmp_path, content):
    path = tmp_path / "trace.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"trace\.txt"):
        patterns.named(str(path), 12288, 4096, 0)


def test_a_misspelt_pattern_is_answered_with_the_nearest_one():
    with pytest.raises(UsageError, match="did you mean sequential"):
        patterns.named("sequental", 12288, 4096, 0)


@pytest.mark.parametrize("pattern", ["streams:0", "streams:x", "random:3", "strided:0"])
def test_an_argument_that_a_pattern_has_not_is_refused(pattern):
    with pytest.raises(UsageError):
        patterns.named(pattern, 1 << 20, 4096, 10)
