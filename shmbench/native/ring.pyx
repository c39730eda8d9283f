# cython: language_level=3, boundscheck=False, wraparound=False
"""Rings over shared memory: one writer, any number of readers, each message reaches all of them.

Memory of a ring (all offsets in 64-byte lines, so that no two roles write the same line):

    line 0            the writer's wait word
    lines 1 + 2r      reader r: head, the count of fragments that it has released
    lines 2 + 2r      reader r: its wait word, and two semaphores (items, space)
    then              slots

A slot is a stamp and a payload. The stamp's upper half is the fragment's number + 1, so a reader sees that
a slot is filled by looking at the slot alone (no shared tail), and its lower half is how many bytes of the
message are still to come, this fragment's included. Up to 56 bytes stamp and payload share one line: one
line moves between the CPUs, and nothing else. A longer message is cut into fragments, so that the reader
copies out of one while the writer fills the next.

What tells the wait strategies apart is how they wait for an item and for space, and how they tell the other
side: four methods. Each grants the caller a number of fragments, so that no strategy is ever asked about.
"""

from libc.errno cimport EINTR, EMSGSIZE, errno
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport read, write

from shmbench.native.atomics cimport (
    shm_fence, shm_load32, shm_load64, shm_pause, shm_store32, shm_store64, shm_swap32,
)
from shmbench.native.endpoint cimport Endpoint, check


cdef extern from "futex.h" nogil:
    int shm_futex_wait(uint32_t *word, uint32_t expected)
    int shm_futex_wake(uint32_t *word, int waiters)
    int sched_yield()


cdef extern from "semaphore.h" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t *sem, int pshared, unsigned int value)
    int sem_wait(sem_t *sem)
    int sem_post(sem_t *sem)


cdef extern from *:
    """
    /* A call to memcpy costs more than the 8 to 56 bytes that small messages have. */
    #include <stdint.h>
    #include <string.h>
    static inline void shm_copy(char *to, const char *from, size_t n) {
        if (n == 8) { uint64_t word; memcpy(&word, from, 8); memcpy(to, &word, 8); }
        else memcpy(to, from, n);
    }
    """
    void shm_copy(char *to, const char *source, size_t n) nogil


cdef enum:
    LINE = 64  # bytes of a cache line

FRAGMENT_BYTES_MAX = 32 * 1024
_LARGE_BYTES = 4096  # from here on, copying a fragment costs more than handing it over
# Larger than an L2 cache on purpose: a line that the reader's L2 still holds must be taken away from it
# before it can be written again, which made the writer 4 to 5 times slower (6 against 28 GB/s).
_SLOTS_BYTES = 4 * 1024 * 1024
_SLOTS_MAX = 2048
_SLOTS_MIN = 8


class Layout:
    """Where things are in a ring's memory, for messages of one size and a number of readers.

    Args:
        message_bytes: of the largest message.
        readers: how many there are.
        small_slots: slots of fragments below 4 KiB; a power of two. A line that passed a few messages ago
            goes over faster than one that passed long ago (8 bytes through 32 slots: 48 to 50 ns, through
            64 and more: 52; 16 gave 36 to 47, another figure in each process), but a side that sleeps when
            there is nothing to do wants many.

    Attributes:
        fragment_bytes: payload bytes a slot.
        slots: a power of two.
        stride_bytes: from one slot to the next.
        payload_offset: from a slot's stamp to its payload.
        slots_offset: from the ring's first byte to its first slot.
        size_bytes: of the whole ring, a multiple of the line.
    """

    def __init__(self, message_bytes: int, readers: int, small_slots: int = _SLOTS_MAX) -> None:
        self.readers = readers
        self.fragment_bytes = min(message_bytes, FRAGMENT_BYTES_MAX)
        if self.fragment_bytes <= LINE - 8:
            self.payload_offset = 8
            self.stride_bytes = 16
            while self.stride_bytes < 8 + self.fragment_bytes:
                self.stride_bytes *= 2
        else:
            self.payload_offset = LINE
            self.stride_bytes = LINE + (self.fragment_bytes + LINE - 1) // LINE * LINE
        slots_max = small_slots if self.fragment_bytes < _LARGE_BYTES else _SLOTS_MAX
        slots = _SLOTS_MIN
        while slots < slots_max and 2 * slots * self.stride_bytes <= _SLOTS_BYTES:
            slots *= 2
        self.slots = slots
        self.slots_offset = LINE * (1 + 2 * readers)
        self.size_bytes = self.slots_offset + slots * self.stride_bytes


cdef class RingEndpoint(Endpoint):
    """One end of a ring. The base waits by spinning; the strategies override four methods."""

    cdef char *_slots
    cdef char *_slot          # the next fragment's, found as soon as the last one has passed
    cdef char *_control
    cdef uint64_t _index      # the next fragment's number
    cdef uint64_t _granted    # fragments below this number may be written, or are there to read
    cdef uint64_t _mask       # slots - 1
    cdef uint64_t _release_mask  # the head is published when (index & this) is 0
    cdef size_t _stride, _offset, _fragment
    cdef int _readers
    cdef int _reader          # -1: the writing end
    cdef object _keep         # the region, so that its memory outlives this end

    def __init__(self, region, uintptr_t address, layout, int reader):
        """
        Args:
            region: whose memory it is; kept alive.
            address: of the ring's first byte, aligned to a line.
            layout: the ring's Layout.
            reader: which reader this end is, or -1 for the writer.
        """
        if address % LINE:
            raise ValueError("a ring's memory starts at a 64-byte line")
        self._keep = region
        self._control = <char *>address
        self._slots = <char *>(address + <size_t>layout.slots_offset)
        self._stride = layout.stride_bytes
        self._offset = layout.payload_offset
        self._fragment = layout.fragment_bytes
        self._mask = layout.slots - 1
        # Large fragments are released one by one; of small ones a quarter of the ring at once, so
        # that the writer seldom takes the head's line away from the reader.
        self._release_mask = 0 if self._fragment >= _LARGE_BYTES else layout.slots // 4 - 1
        self._readers = layout.readers
        self._reader = reader
        self._index = 0
        self._slot = self._slots
        self._granted = 0

    @staticmethod
    def prepare(uintptr_t address, layout):
        """Set up what the strategies need in zeroed memory; once a ring, before any end is used."""
        cdef int r
        cdef int readers = layout.readers
        cdef char *line
        for r in range(readers):
            line = <char *>address + LINE * (2 + 2 * r)
            if sem_init(<sem_t *>(line), 1, 0) != 0 or \
                    sem_init(<sem_t *>(line + 32), 1, layout.slots) != 0:
                check("sem_init", -errno)

    cdef inline uint64_t *head(self, int reader) noexcept nogil:
        return <uint64_t *>(self._control + LINE * (1 + 2 * reader))

    cdef inline uint64_t slowest_head(self) noexcept nogil:
        cdef uint64_t slowest = shm_load64(self.head(0)), other
        cdef int r
        for r in range(1, self._readers):
            other = shm_load64(self.head(r))
            if other < slowest:
                slowest = other
        return slowest

    cdef inline bint has_item(self) noexcept nogil:
        return <uint32_t>(shm_load64(<uint64_t *>self._slot) >> 32) == <uint32_t>(self._index + 1)

    cdef inline void advance(self) noexcept nogil:
        self._index += 1
        self._slot = self._slots + (self._index & self._mask) * self._stride

    cdef inline bint has_space(self) noexcept nogil:
        cdef uint64_t limit = self.slowest_head() + self._mask + 1
        if limit == self._index:
            return False
        self._granted = limit
        return True

    # The four methods that a strategy is made of.

    cdef int await_item(self) noexcept nogil:
        cdef uint32_t looks = 0
        while not self.has_item():
            looks += 1
            if looks >= self.spins_before_yield:
                sched_yield()
            else:
                shm_pause()
        self._granted = self._index + 1
        return 0

    cdef int await_space(self) noexcept nogil:
        cdef uint32_t looks = 0
        while not self.has_space():
            looks += 1
            if looks >= self.spins_before_yield:
                sched_yield()
            else:
                shm_pause()
        return 0

    cdef int announce_item(self) noexcept nogil:
        return 0

    cdef int announce_space(self) noexcept nogil:
        return 0

    cdef int c_send(self, const char *data, size_t n) noexcept nogil:
        cdef size_t piece
        cdef int status
        if n >> 32:
            return -EMSGSIZE
        while True:
            if self._index == self._granted:
                status = self.await_space()
                if status < 0:
                    return status
            piece = n if n < self._fragment else self._fragment
            shm_copy(self._slot + self._offset, data, piece)
            shm_store64(<uint64_t *>self._slot, ((self._index + 1) << 32) | n)
            self.advance()
            status = self.announce_item()
            if status < 0:
                return status
            n -= piece
            if n == 0:
                return 0
            data += piece

    cdef Py_ssize_t c_recv(self, char *data, size_t capacity) noexcept nogil:
        cdef size_t piece, remaining, total = 0
        cdef int status
        while True:
            if self._index == self._granted:
                status = self.await_item()
                if status < 0:
                    return status
            remaining = <uint32_t>shm_load64(<uint64_t *>self._slot)
            if remaining > capacity:
                return -EMSGSIZE
            piece = remaining if remaining < self._fragment else self._fragment
            shm_copy(data, self._slot + self._offset, piece)
            self.advance()
            if self._index & self._release_mask == 0:
                shm_store64(self.head(self._reader), self._index)
                status = self.announce_space()
                if status < 0:
                    return status
            total += piece
            if remaining == piece:
                return total
            data += piece
            capacity -= piece


cdef class SpinEnd(RingEndpoint):
    """Waits by looking."""


cdef class FutexEnd(RingEndpoint):
    """Looks `looks` times, then sleeps on a futex; wakes the other side only when it sleeps.

    With looks = 0 it sleeps at once (strategy `futex`), with more it is `adaptive`.
    """

    cdef public uint32_t looks

    cdef inline uint32_t *item_word(self, int reader) noexcept nogil:
        return <uint32_t *>(self._control + LINE * (1 + 2 * reader) + 8)

    cdef inline uint32_t *space_word(self) noexcept nogil:
        return <uint32_t *>self._control

    cdef inline int wake(self, uint32_t *word) noexcept nogil:
        # The fence keeps our publication before our look at the word; the sleeper does the reverse.
        shm_fence()
        if shm_load32(word) and shm_swap32(word, 0):
            return shm_futex_wake(word, 1)
        return 0

    cdef int await_item(self) noexcept nogil:
        cdef uint32_t i
        cdef uint32_t *word = self.item_word(self._reader)
        cdef int status
        for i in range(self.looks):
            if self.has_item():
                break
            shm_pause()
        while not self.has_item():
            shm_store32(word, 1)
            shm_fence()
            if self.has_item():
                break
            status = shm_futex_wait(word, 1)
            if status < 0:
                return status
        self._granted = self._index + 1
        return 0

    cdef int await_space(self) noexcept nogil:
        cdef uint32_t i
        cdef int status
        for i in range(self.looks):
            if self.has_space():
                return 0
            shm_pause()
        while not self.has_space():
            shm_store32(self.space_word(), 1)
            shm_fence()
            if self.has_space():
                break
            status = shm_futex_wait(self.space_word(), 1)
            if status < 0:
                return status
        return 0

    cdef int announce_item(self) noexcept nogil:
        cdef int r, status
        for r in range(self._readers):
            status = self.wake(self.item_word(r))
            if status < 0:
                return status
        return 0

    cdef int announce_space(self) noexcept nogil:
        return self.wake(self.space_word())


cdef class SemaphoreEnd(RingEndpoint):
    """Counts items and space with POSIX semaphores in the shared memory (sem_init, pshared = 1)."""

    def __init__(self, region, uintptr_t address, layout, int reader):
        RingEndpoint.__init__(self, region, address, layout, reader)
        self._release_mask = 0

    cdef inline sem_t *items(self, int reader) noexcept nogil:
        return <sem_t *>(self._control + LINE * (2 + 2 * reader))

    cdef inline sem_t *space(self, int reader) noexcept nogil:
        return <sem_t *>(self._control + LINE * (2 + 2 * reader) + 32)

    cdef inline int wait(self, sem_t *semaphore) noexcept nogil:
        while sem_wait(semaphore) != 0:
            if errno != EINTR:
                return -errno
        return 0

    cdef int await_item(self) noexcept nogil:
        cdef int status = self.wait(self.items(self._reader))
        self._granted = self._index + 1
        return status

    cdef int await_space(self) noexcept nogil:
        cdef int r, status
        for r in range(self._readers):
            status = self.wait(self.space(r))
            if status < 0:
                return status
        self._granted = self._index + 1
        return 0

    cdef int announce_item(self) noexcept nogil:
        cdef int r
        for r in range(self._readers):
            if sem_post(self.items(r)) != 0:
                return -errno
        return 0

    cdef int announce_space(self) noexcept nogil:
        return 0 if sem_post(self.space(self._reader)) == 0 else -errno


cdef class EventfdEnd(RingEndpoint):
    """Counts items and space with eventfd(2): two descriptors a reader."""

    cdef int *_items
    cdef int *_space
    cdef uint64_t *_credits   # of the writer, by reader

    def __init__(self, region, uintptr_t address, layout, int reader, list items, list space):
        """
        Args:
            items, space: an eventfd a reader each; space starts at the number of slots.
        """
        cdef int r
        RingEndpoint.__init__(self, region, address, layout, reader)
        self._release_mask = 0
        self._items = <int *>calloc(self._readers, sizeof(int))
        self._space = <int *>calloc(self._readers, sizeof(int))
        self._credits = <uint64_t *>calloc(self._readers, sizeof(uint64_t))
        if self._items == NULL or self._space == NULL or self._credits == NULL:
            raise MemoryError
        for r in range(self._readers):
            self._items[r] = items[r]
            self._space[r] = space[r]

    def __dealloc__(self):
        free(self._items)
        free(self._space)
        free(self._credits)

    cdef inline Py_ssize_t take(self, int fd) noexcept nogil:
        """All that the descriptor counted; waits while that is nothing."""
        cdef uint64_t count
        while read(fd, &count, 8) != 8:
            if errno != EINTR:
                return -errno
        return count

    cdef inline int give(self, int fd) noexcept nogil:
        cdef uint64_t one = 1
        while write(fd, &one, 8) != 8:
            if errno != EINTR:
                return -errno
        return 0

    cdef int await_item(self) noexcept nogil:
        cdef Py_ssize_t count = self.take(self._items[self._reader])
        if count < 0:
            return count
        self._granted = self._index + count
        return 0

    cdef int await_space(self) noexcept nogil:
        cdef int r
        cdef Py_ssize_t count
        for r in range(self._readers):
            if self._credits[r] == 0:
                count = self.take(self._space[r])
                if count < 0:
                    return count
                self._credits[r] = count
            self._credits[r] -= 1
        self._granted = self._index + 1
        return 0

    cdef int announce_item(self) noexcept nogil:
        cdef int r, status
        for r in range(self._readers):
            status = self.give(self._items[r])
            if status < 0:
                return status
        return 0

    cdef int announce_space(self) noexcept nogil:
        return self.give(self._space[self._reader])
