"""The latency histogram: exact ends, bounded error, merging and the way over a pipe."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmbench.native.histogram import Histogram

TOP_NS = 2**41
latencies = st.integers(0, 10**13) | st.integers(0, 1000)
samples = st.lists(latencies, min_size=1, max_size=60)


def histogram_of(values):
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def exact_quantile(values, q):
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


@given(samples, st.floats(0, 1))
def test_a_quantile_is_within_half_a_percent_of_the_exact_one(values, q):
    exact = exact_quantile(values, q)
    if exact < TOP_NS or q == 1:
        assert abs(histogram_of(values).quantile(q) - exact) <= 0.005 * exact


@given(samples)
def test_count_min_and_max_are_exact(values):
    histogram = histogram_of(values)
    assert (histogram.count, histogram.min, histogram.max) == (
        len(values),
        min(values),
        max(values),
    )
    assert (histogram.quantile(0), histogram.quantile(1)) == (min(values), max(values))


@given(samples)
def test_quantiles_never_fall(values):
    histogram = histogram_of(values)
    quantiles = [histogram.quantile(step / 20) for step in range(21)]
    assert quantiles == sorted(quantiles)


@given(st.lists(latencies, max_size=30), st.lists(latencies, max_size=30))
def test_merging_is_recording_both(first, second):
    merged = histogram_of(first)
    merged.merge(histogram_of(second))
    assert merged.to_bytes() == histogram_of(first + second).to_bytes()


@given(st.lists(latencies, max_size=30))
def test_bytes_bring_the_same_histogram_back(values):
    data = histogram_of(values).to_bytes()
    assert Histogram.from_bytes(data).to_bytes() == data


def test_each_nanosecond_below_256_has_a_bucket_of_its_own():
    for value in range(256):
        histogram = histogram_of([0, value, 300])
        assert histogram.quantile(0.5) == value


def test_what_is_beyond_the_top_is_counted_and_its_maximum_kept():
    histogram = histogram_of([5, TOP_NS, 2**64 - 1])
    assert histogram.count == 3
    assert histogram.max == 2**64 - 1
    assert 0.99 * TOP_NS < histogram.quantile(0.5) <= TOP_NS


def test_the_widest_histogram_fits_into_one_exchange_between_ranks():
    histogram = Histogram()
    for power in range(41):
        for step in range(128):
            histogram.record((1 << power) + ((step << power) >> 7))
    assert len(histogram.to_bytes()) < 64 * 1024


def test_an_empty_histogram_has_no_ends_and_no_quantiles():
    histogram = Histogram()
    assert (histogram.count, histogram.min, histogram.max) == (0, None, None)
    with pytest.raises(ValueError, match="empty"):
        histogram.quantile(0.5)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_that_is_no_share_is_refused(q):
    with pytest.raises(ValueError, match="between 0 and 1"):
        histogram_of([1]).quantile(q)


def test_a_negative_latency_is_refused():
    with pytest.raises(OverflowError):
        Histogram().record(-1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: b"\x40" + data[1:],  # 64 buckets to a power of two
        lambda data: data[:20] + b"\xff\xff\xff\xff" + data[24:],  # a bucket beyond the last
    ],
    ids=["empty", "cut", "other buckets", "no such bucket"],
)
def test_damaged_bytes_are_refused(damage):
    with pytest.raises(ValueError, match="histogram"):
        Histogram.from_bytes(damage(histogram_of([1, 2, 3]).to_bytes()))
