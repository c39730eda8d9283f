# cython: language_level=3
"""How many steps of a stride are mapped in one go, where the file is in memory?"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t

cdef enum:
    SURE_STEPS = 8  # equal ones in a row
    SHORTEST_BYTES = 16 << 10  # a fault maps 64 KiB
    MOST_STEPS = 256  # of 16 KiB: a fault may map 2 MiB
    PAUSE = 2048  # accesses until the next attempt, doubled after each that fails
    PAUSE_MAX = 1 << 20
    HUGE_BYTES = 1 << 20  # a fault that maps so much has met a huge page
    JUDGED_BYTES = 8 << 20  # less has too few huge pages to tell
    PIECE_BYTES = 4 << 20  # the first one; others are multiples
    PIECE_BYTES_MAX = 64 << 20  # 41 us, where four pieces of 16 MiB take 43
    GROWTH = 4
    PIECES = 32  # until the faults are counted again
    REFUSALS_MAX = 6


cdef class StrideLaw:
    """Lets a stride's next steps be mapped together with the one that is read.

    A fault is cheaper right after another one, with the kernel's code in the CPU's caches, than
    after the reader's own work. So they are taken in batches, each twice as long as the one before,
    as long as the stride goes on: at most as many are in vain as were of use. Where a fault maps a
    huge page, so that there are fewer faults than steps, to populate the whole piece of the file
    is cheaper still. Pure: it knows offsets and counts, and no memory.

    Attributes:
        step: from the access before to this one, in bytes.
        there: this access was mapped in one go with an earlier one.
        piece: populate so many bytes instead, if they are all in huge pages; 0: don't.
    """

    def __cinit__(self):
        self._pause = PAUSE

    cpdef size_t access(self, size_t offset, size_t end, size_t size) noexcept:
        """An access to these bytes of so many.

        Returns:
            How many steps to touch now, with this access as the first one, and to tell of by
            `touched`, or by `populated`; 0: none ahead.
        """
        cdef int64_t step = <int64_t>offset - <int64_t>self._at
        cdef size_t length = end - offset, distance = max(step, -step)
        self._at = offset
        self._wanted = self.piece = 0
        if step != self.step or length != self._length:
            self.step = step
            self._length = length
            self._equal = 1
            self.forget()
            return 0
        self.there = self._ready > 0
        if self.there:
            self._ready -= 1
            return 0
        if self._rest:
            self._rest -= 1
            return 0
        self._equal = min(self._equal + 1, <int>SURE_STEPS)
        if self._equal < SURE_STEPS:
            return 0
        if distance < SHORTEST_BYTES or distance <= length:
            return 0
        cdef size_t left = (size - end if step > 0 else offset) // distance
        if left == 0:
            return 0
        if self._wait:
            self._wait -= 1
        elif self._pieces:
            self.piece = min(self._piece, left * distance) // PIECE_BYTES * PIECE_BYTES
        self._wanted = min(self._steps, left + 1)
        return self._wanted

    cpdef void touched(self, size_t offset, size_t steps, uint64_t faults) noexcept:
        """So many steps were touched from that access on, with so many page faults."""
        cdef size_t distance = max(self.step, -self.step)
        if self._wanted == 0 or offset != self._at:  # another thread has read meanwhile
            return
        self._ready = steps - 1
        if steps == MOST_STEPS and faults == 0:  # they were mapped already
            self.stop()
        elif steps == self._steps:
            self._steps = min(2 * steps, <size_t>MOST_STEPS)
        else:
            self._steps = max(steps, <size_t>2)
        if faults and 2 * faults <= steps and HUGE_BYTES * faults <= steps * distance:
            if self._pieces == 0 and steps * distance >= JUDGED_BYTES:
                self._pieces = PIECES
        else:
            self._pieces = 0

    cpdef void populated(self, size_t offset) noexcept:
        """The piece has been, from that access on."""
        if self._wanted == 0 or offset != self._at:
            return
        self.there = True
        self._ready = (self.piece - self._length) // <size_t>max(self.step, -self.step)
        self._pieces -= 1
        self._refusals = 0
        self._piece = min(GROWTH * self._piece, <size_t>PIECE_BYTES_MAX)

    cpdef void refused(self) noexcept:
        """The piece is not all in huge pages: the steps are to be touched."""
        self._wait = 1 << self._refusals
        self._refusals = min(self._refusals + 1, REFUSALS_MAX)
        self._piece = PIECE_BYTES

    cpdef void stop(self) noexcept:
        """It doesn't help: try again after a while."""
        self.forget()
        self._rest = self._pause
        self._pause = min(2 * self._pause, <uint64_t>PAUSE_MAX)

    cpdef void forget(self) noexcept:
        """What was mapped ahead is not to be relied on."""
        self.there = False
        self._ready = self._wanted = self.piece = self._pieces = 0
        self._steps = 2
        self._wait = self._refusals = 0
        self._piece = PIECE_BYTES
