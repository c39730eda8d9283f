# cython: language_level=3
"""Is it worth mapping what a stride will read next, where the file is in memory?"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t

cdef enum:
    SURE_STEPS = 8  # equal ones in a row
    TIMED = 16  # touches; one fault maps 64 KiB, thus four of the shortest steps
    FAULT_NS_MIN = 70  # what takes less than this was mapped already
    SHORTEST_BYTES = 16 << 10
    LONGEST_BYTES = 4 << 20
    PROBE_BYTES = 256 << 10  # of small pages it takes 5 to 20 us
    MOST_BYTES = 16 << 20  # 1.1 us a MiB in large folios, where a MiB at a time takes 2.4
    GROWTH = 4
    WORTH_STEPS = 200  # left; a fault takes 1 us at most
    PAUSE = 2048  # accesses until the next attempt, doubled after each that fails
    PAUSE_MAX = 1 << 20

cdef double GAIN = 0.85  # mapping, as a part of the faults that it saves: reading goes on costing a little
cdef double WORTH_NS = 200e3  # of faults that are left: an attempt in vain takes 30 to 110 us
cdef double CREDIT_NS = 24e3  # at first: a call with cold caches takes 7 to 20 us
cdef double COLD_NS = 7e3
cdef double CREDIT_NS_MAX = 120e3  # of what was saved, for a call that is interrupted


cdef class StrideLaw:
    """Compares what a stride's own faults take with what mapping all of the file ahead of it takes.

    Mapping a MiB at once is cheap where the page cache holds large folios, so that it can pay even
    for a few pages of it. Pure: it knows offsets and times, and no memory.

    Attributes:
        timing: the next touch's time is wanted: `touched`.
        start: of what is to be mapped, or was at last, in bytes.
        length: of that.
    """

    def __cinit__(self):
        self._pause = PAUSE

    cpdef bint access(self, size_t offset, size_t end, size_t size) noexcept:
        """An access to these bytes of so many.

        Returns:
            Map `length` bytes from `start` on now, and tell by `mapped` or `stop` how it went.
        """
        cdef int64_t step = <int64_t>offset - <int64_t>self._at
        self._at = offset
        if step != self._step:
            self._step = step
            self._equal = 0
            self._forget()
            return False
        if self._rest:
            self._rest -= 1
            return False
        if self.start <= offset < self.start + self.length:
            return False
        cdef size_t distance = max(step, -step)
        self._equal += 1
        if (
            self._equal < SURE_STEPS
            or not SHORTEST_BYTES <= distance <= LONGEST_BYTES
            or distance <= end - offset
        ):
            return False
        cdef size_t left = (size - end if step > 0 else offset) // distance
        if self.length == 0 and left < WORTH_STEPS:
            self.timing = False
            return False
        self.timing = self._touches < TIMED
        if self.timing:
            return False
        if self._usual_ns() < FAULT_NS_MIN or (
            self.length == 0 and self._usual_ns() * left < WORTH_NS
        ):
            self.stop()
            return False
        cdef size_t piece = self._piece if self._piece == PROBE_BYTES else max(self._piece, distance)
        if step > 0:
            self.start = offset
            self.length = min(piece, size - offset)
        else:
            self.length = min(piece, end)
            self.start = end - self.length
        return True

    cpdef void touched(self, uint64_t ns) noexcept:
        """The last access, a load from each of its pages, took so long."""
        if not self.timing:
            return
        self._touches += 1
        self._touch_ns += ns
        self._longest_ns = max(self._longest_ns, ns)

    cpdef void mapped(self, uint64_t ns) noexcept:
        """It took so long to map the piece; go on as long as that has not cost more than it saved."""
        cdef size_t distance = max(self._step, -self._step)
        cdef size_t following = max(min(GROWTH * self.length, <size_t>MOST_BYTES), distance)
        cdef double saved_ns = GAIN * self._usual_ns()  # a step
        cdef double steps = max(1.0, <double>self.length / distance)
        cdef double cold_ns = COLD_NS if self._piece == PROBE_BYTES else 0
        cdef double expected_ns = max(0.0, ns - cold_ns) * following / self.length
        self._credit_ns = min(self._credit_ns + saved_ns * steps - ns, CREDIT_NS_MAX)
        # As much again, it is waited and seen; more has to be likely to pay.
        if following <= self.length:
            expected_ns = 0
        if self._credit_ns < max(0.0, expected_ns - saved_ns * following / distance):
            self.stop()
        else:
            self._piece = following

    cpdef void stop(self) noexcept:
        """It doesn't pay, or can't be done: try again after a while."""
        self._forget()
        self._rest = self._pause
        self._pause = min(2 * self._pause, <uint64_t>PAUSE_MAX)

    cdef double _usual_ns(self) noexcept:
        """Of a touch; without the longest one, which may have been interrupted."""
        return <double>(self._touch_ns - self._longest_ns) / (TIMED - 1)

    cdef void _forget(self) noexcept:
        self.timing = False
        self.start = self.length = 0
        self._piece = PROBE_BYTES
        self._touches = 0
        self._touch_ns = self._longest_ns = 0
        self._credit_ns = CREDIT_NS
