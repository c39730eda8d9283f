"""Medians over process groups, and how sure they are. For the leader: ranks don't need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from shmbench.native.histogram import Histogram

# Name, share, and how many samples carry it: ten of them lie beyond it.
_PERCENTILES = (("p50", 0.5, 20), ("p90", 0.9, 100), ("p99", 0.99, 1000), ("p99.9", 0.999, 10_000))


def median(samples: Sequence[float]) -> float:
    """The median of at least one sample."""
    return float(np.median(samples))


def _resampled_medians(
    samples: Sequence[float], resamples: int, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Medians of `resamples` draws with replacement, each as long as samples."""
    if len(samples) == 0:
        raise ValueError("no samples, so no interval")
    values = np.asarray(samples, dtype=np.float64)
    draws = generator.integers(0, len(values), size=(resamples, len(values)))
    medians: npt.NDArray[np.float64] = np.median(values[draws], axis=1)
    return medians


def _interval(values: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_median(
    samples: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """An interval of the median by the percentile bootstrap (Efron 1979).

    BCa is no better here: its acceleration comes from the jackknife, which is inconsistent for the
    median. The percentile interval of a median comes close to the exact one by order statistics.
    With five samples or fewer it is simply their minimum and maximum, which cover the median with
    probability 1 - 2^(1-n): 75 % of the time for three samples, 94 % for five.

    Args:
        samples: one value a process group; values of one group aren't independent.
        confidence: the share of runs whose interval shall cover the median.
        resamples: how often to draw.
        seed: the same seed and samples give the same interval.

    Returns:
        (low, high), in the samples' unit; for one sample both are that sample.

    Raises:
        ValueError: there are no samples.
    """
    generator = np.random.default_rng(seed)
    return _interval(_resampled_medians(samples, resamples, generator), confidence)


def bootstrap_ratio(
    base: Sequence[float],
    new: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """An interval of median(new) / median(base), each drawn by itself; see `bootstrap_median`.

    Args:
        base: positive samples, one a process group.
        new: samples that are compared with them, in the same unit.
        confidence: the share of runs whose interval shall cover the ratio.
        resamples: how often to draw.
        seed: the same seed and samples give the same interval.

    Returns:
        (low, high); 1.0 is no difference, above it `new` is larger.

    Raises:
        ValueError: one of them has no samples.
    """
    generator = np.random.default_rng(seed)
    base_medians = _resampled_medians(base, resamples, generator)
    new_medians = _resampled_medians(new, resamples, generator)
    return _interval(new_medians / base_medians, confidence)


def relative_half_width(interval: tuple[float, float], middle: float) -> float:
    """Half of an interval's width, as a share of its positive middle: 0.02 reads "± 2 %"."""
    low, high = interval
    return (high - low) / 2 / middle


def percentiles(histogram: Histogram, scale: float = 1.0) -> dict[str, float]:
    """The percentiles that a histogram's count carries, and its maximum.

    Args:
        histogram: latencies in nanoseconds.
        scale: what to multiply with: 0.5 makes one-way latencies of round trips.

    Returns:
        Of "p50", "p90", "p99" and "p99.9" those with at least ten samples beyond them, and "max":
        seconds. Nothing for an empty histogram.
    """
    longest = histogram.max
    if longest is None:
        return {}
    count = histogram.count
    found = {
        name: histogram.quantile(share) * 1e-9 * scale
        for name, share, needed in _PERCENTILES
        if count >= needed
    }
    return found | {"max": longest * 1e-9 * scale}
