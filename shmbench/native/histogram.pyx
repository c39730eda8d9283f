# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A histogram of latencies, preallocated, so that recording one costs a few instructions.

The buckets are log-linear, as in HdrHistogram (Gil Tene): each power of two is cut into 128 equal
buckets, so a bucket is at most 1/128 of its values wide, and its middle at most 0.4 % off. Below
256 ns each nanosecond has a bucket of its own. 4480 buckets reach 2199 s; longer ones count in the last.
"""

from libc.math cimport ceil
from libc.stdint cimport uint64_t

import struct

_HEADER = struct.Struct("<IQQ")  # sub-buckets to a power of two, min, max
_ENTRY = struct.Struct("<IQ")  # bucket, count


cdef uint64_t middle_ns(unsigned bucket) noexcept nogil:
    """The middle of the values that share a bucket."""
    if bucket < 2 * SHM_SUB_BUCKETS:
        return bucket
    cdef unsigned shift = bucket / SHM_SUB_BUCKETS - 1
    cdef uint64_t lowest = <uint64_t>(bucket - shift * SHM_SUB_BUCKETS) << shift
    return lowest + ((<uint64_t>1 << shift) >> 1)


cdef class Histogram:
    """Counts latencies in nanoseconds. Loops cimport it and call `c_record`."""

    def __cinit__(self):
        self.min_ns = <uint64_t>-1

    def record(self, uint64_t ns):
        """Count one latency, in nanoseconds."""
        self.c_record(ns)

    def merge(self, Histogram other not None):
        """Count everything that the other histogram has counted as well."""
        cdef unsigned i
        for i in range(SHM_BUCKETS):
            self.counts[i] += other.counts[i]
        self.min_ns = min(self.min_ns, other.min_ns)
        self.max_ns = max(self.max_ns, other.max_ns)

    @property
    def count(self):
        """How many latencies were recorded."""
        cdef uint64_t total = 0
        cdef unsigned i
        for i in range(SHM_BUCKETS):
            total += self.counts[i]
        return total

    @property
    def min(self):
        """The shortest latency, exact, in nanoseconds; None before the first."""
        return None if self.min_ns > self.max_ns else self.min_ns

    @property
    def max(self):
        """The longest latency, exact, in nanoseconds; None before the first."""
        return None if self.min_ns > self.max_ns else self.max_ns

    def quantile(self, double q):
        """The latency that the share `q` of all samples does not exceed.

        Args:
            q: 0 to 1; 0 gives the minimum, 1 the maximum.

        Returns:
            Nanoseconds, within 0.4 % of a recorded value.

        Raises:
            ValueError: q is not a share, or nothing was recorded.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is between 0 and 1, not {q}")
        cdef uint64_t total = self.count
        if total == 0:
            raise ValueError("an empty histogram has no quantiles")
        cdef uint64_t wanted = <uint64_t>ceil(q * <double>total)
        if wanted <= 1:
            return self.min_ns
        if wanted >= total:
            return self.max_ns
        cdef uint64_t seen = 0
        cdef unsigned i = 0
        while True:
            seen += self.counts[i]
            if seen >= wanted:
                return min(max(middle_ns(i), self.min_ns), self.max_ns)
            i += 1

    def to_bytes(self):
        """The histogram in bytes: at most 54 KiB, for the buckets in use only."""
        cdef unsigned i
        parts = [_HEADER.pack(SHM_SUB_BUCKETS, self.min_ns, self.max_ns)]
        for i in range(SHM_BUCKETS):
            if self.counts[i]:
                parts.append(_ENTRY.pack(i, self.counts[i]))
        return b"".join(parts)

    @staticmethod
    def from_bytes(data):
        """The histogram that `to_bytes` wrote.

        Raises:
            ValueError: the bytes are cut off, or have other buckets than this version's.
        """
        cdef Histogram histogram = Histogram()
        cdef unsigned index
        if len(data) < _HEADER.size or (len(data) - _HEADER.size) % _ENTRY.size:
            raise ValueError(f"{len(data)} bytes are no histogram")
        sub_buckets, histogram.min_ns, histogram.max_ns = _HEADER.unpack_from(data)
        if sub_buckets != SHM_SUB_BUCKETS:
            raise ValueError(
                f"a histogram of {sub_buckets} buckets to a power of two, not {SHM_SUB_BUCKETS}"
            )
        for index, count in _ENTRY.iter_unpack(data[_HEADER.size:]):
            if index >= SHM_BUCKETS:
                raise ValueError(f"a histogram has no bucket {index}")
            histogram.counts[index] += count
        return histogram
