"""Intervals over process groups, and the percentiles that a histogram carries."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmbench.measure import statistics
from shmbench.native.histogram import Histogram

groups = st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=12)


@given(groups)
def test_the_interval_contains_the_median_and_stays_within_the_samples(samples):
    low, high = statistics.bootstrap_median(samples)
    assert min(samples) <= low <= statistics.median(samples) <= high <= max(samples)


@given(groups, st.integers(-20, 20))
def test_scaling_the_samples_scales_the_interval(samples, power):
    low, high = statistics.bootstrap_median(samples)
    scaled = statistics.bootstrap_median([sample * 2.0**power for sample in samples])
    assert scaled == (low * 2.0**power, high * 2.0**power)


@given(groups)
def test_the_same_seed_gives_the_same_interval(samples):
    first = statistics.bootstrap_median(samples, seed=7)
    assert first == statistics.bootstrap_median(samples, seed=7)


@given(st.lists(st.floats(0.5, 2.0), min_size=2, max_size=5))
def test_up_to_five_samples_give_their_range(samples):
    assert statistics.bootstrap_median(samples) == (min(samples), max(samples))


@settings(max_examples=30)
@given(groups)
def test_more_confidence_never_narrows_the_interval(samples):
    low, high = statistics.bootstrap_median(samples, confidence=0.8)
    wider_low, wider_high = statistics.bootstrap_median(samples, confidence=0.99)
    assert wider_low <= low
    assert high <= wider_high


@given(groups, groups)
def test_the_ratio_of_medians_lies_in_its_interval(base, new):
    low, high = statistics.bootstrap_ratio(base, new)
    ratio = statistics.median(new) / statistics.median(base)
    assert low <= ratio * (1 + 1e-12)
    assert ratio <= high * (1 + 1e-12)


def test_a_slowdown_beyond_the_noise_is_seen_and_equal_samples_are_not():
    base = [1.00, 1.01, 0.99, 1.02, 0.98, 1.00]
    low, _ = statistics.bootstrap_ratio(base, [sample * 1.10 for sample in base])
    assert low > 1.0
    low, high = statistics.bootstrap_ratio(base, base)
    assert low < 1.0 < high


@pytest.mark.parametrize(
    "interval",
    [
        lambda: statistics.bootstrap_median([]),
        lambda: statistics.bootstrap_ratio([], [1.0]),
        lambda: statistics.bootstrap_ratio([1.0], []),
    ],
)
def test_no_samples_have_no_interval(interval):
    with pytest.raises(ValueError, match="no samples"):
        interval()


def test_the_half_width_is_relative_to_the_middle():
    assert statistics.relative_half_width((0.98, 1.02), 1.0) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (0, []),
        (19, ["max"]),
        (20, ["p50", "max"]),
        (99, ["p50", "max"]),
        (100, ["p50", "p90", "max"]),
        (999, ["p50", "p90", "max"]),
        (1000, ["p50", "p90", "p99", "max"]),
        (9999, ["p50", "p90", "p99", "max"]),
        (10_000, ["p50", "p90", "p99", "p99.9", "max"]),
    ],
)
def test_a_percentile_is_given_only_when_ten_samples_lie_beyond_it(count, names):
    histogram = Histogram()
    for value in range(1, count + 1):
        histogram.record(value)
    assert list(statistics.percentiles(histogram)) == names


def test_percentiles_are_seconds_times_the_scale():
    histogram = Histogram()
    for value in range(1, 10_001):
        histogram.record(value * 1000)
    found = statistics.percentiles(histogram, scale=0.5)
    assert found["p50"] == pytest.approx(2.5e-3, rel=0.01)
    assert found["p99.9"] == pytest.approx(4.995e-3, rel=0.01)
    assert found["max"] == pytest.approx(5e-3, rel=1e-12)
