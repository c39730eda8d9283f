# cython: language_level=3, boundscheck=False, wraparound=False
"""What a program does with mapped pages: look at one byte of each or at all, and work for a while.

All accesses of a figure go through one `Consumer`, which keeps a checksum over what it saw, in its
order: a policy that hands out wrong bytes can't give a figure.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EINTR, EIO, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from shmbench.native.atomics cimport shm_load64, shm_now_ns, shm_pause
from shmbench.native.endpoint cimport check

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t pread(int fd, void *buffer, size_t length, int64_t offset)
    ssize_t preadv(int fd, const iovec *vector, int count, int64_t offset)

cdef enum:
    PAGE = 4096
    PIECES_MAX = 64


cdef inline uint64_t rotated(uint64_t total) noexcept nogil:
    return (total << 1) | (total >> 63)


cdef void work(uint64_t work_ns) noexcept nogil:
    cdef uint64_t start = shm_now_ns()
    while shm_now_ns() - start < work_ns:
        shm_pause()


cdef uint64_t look_at_all(const unsigned char *p, size_t length, uint64_t work_ns) noexcept nogil:
    """The sum of all 8-byte words, and of the bytes that remain behind them."""
    cdef uint64_t sum = 0, word
    cdef size_t i = 0, end
    while i < length:
        end = min(i + PAGE, length)
        while i + 8 <= end:
            memcpy(&word, p + i, 8)
            sum += word
            i += 8
        while i < end:
            sum += p[i]
            i += 1
        if work_ns:
            work(work_ns)
    return sum


cdef uint64_t look(
    const unsigned char *p, size_t length, size_t step, uint64_t work_ns
) noexcept nogil:
    """One byte in every `step`; all of them for 0."""
    cdef uint64_t sum = 0
    cdef size_t i = 0
    if step == 0:
        return look_at_all(p, length, work_ns)
    while i < length:
        sum += (<const volatile unsigned char *>p)[i]
        if work_ns:
            work(work_ns)
        i += step
    return sum


cdef ssize_t read_whole(
    int fd, char *buffer, size_t length, int64_t offset, int pieces
) noexcept nogil:
    """pread, or preadv into so many pieces, until all is there; a negative errno otherwise."""
    cdef iovec vector[PIECES_MAX]
    cdef size_t done = 0, piece = length // pieces if pieces else 0
    cdef ssize_t got
    cdef int i
    if pieces:
        for i in range(pieces):
            vector[i].iov_base = buffer + i * piece
            vector[i].iov_len = piece if i < pieces - 1 else length - i * piece
        got = preadv(fd, vector, pieces, offset)
        if got < 0:
            return -errno
        done = got
    while done < length:
        got = pread(fd, buffer + done, length - done, offset + done)
        if got < 0 and errno != EINTR:
            return -errno
        if got == 0:
            return -EIO
        done += max(got, <ssize_t>0)
    return 0


cdef class Consumer:
    """Looks at bytes, works, and keeps a checksum over all that it saw, in its order.

    Args:
        step: it looks at one byte in so many; 0: at all of them.
        work_ns: how long it works after each look (after each page of 4 KiB where step is 0).

    Attributes:
        total: the checksum since the last `reset`.
    """

    cdef size_t step
    cdef uint64_t work_ns
    cdef readonly uint64_t total

    def __cinit__(self, size_t step, uint64_t work_ns=0):
        self.step = step
        self.work_ns = work_ns

    def reset(self):
        """Begin a new checksum."""
        self.total = 0

    def take(self, buffer):
        """Look at the bytes of a contiguous buffer; without the GIL."""
        cdef Py_buffer view
        cdef uint64_t sum
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        with nogil:
            sum = look(<const unsigned char *>view.buf, view.len, self.step, self.work_ns)
        PyBuffer_Release(&view)
        self.total = rotated(self.total) + sum

    def take_each(self, uintptr_t address, const int64_t[::1] offsets, size_t length):
        """Look at `length` bytes at address + each offset, without the GIL and one after another.

        Returns:
            The nanoseconds that it took.
        """
        cdef Py_ssize_t i, count = offsets.shape[0]
        cdef uint64_t start, total = self.total
        with nogil:
            start = shm_now_ns()
            for i in range(count):
                total = rotated(total) + look(
                    <const unsigned char *>address + offsets[i], length, self.step, self.work_ns
                )
            start = shm_now_ns() - start
        self.total = total
        return start

    def take_file(
        self,
        int fd,
        unsigned char[::1] buffer not None,
        const int64_t[::1] offsets,
        int pieces=0,
    ):
        """The same bytes by pread(2), or by preadv(2) into `pieces` pieces, each into the buffer.

        Returns:
            The nanoseconds that it took.

        Raises:
            OSError: the file can't be read; EIO where it has ended.
        """
        cdef Py_ssize_t i, count = offsets.shape[0]
        cdef size_t length = buffer.shape[0]
        cdef uint64_t start, total = self.total
        cdef ssize_t status = 0
        if not 0 <= pieces <= PIECES_MAX:
            raise ValueError(f"0 to {PIECES_MAX} pieces, not {pieces}")
        with nogil:
            start = shm_now_ns()
            for i in range(count):
                status = read_whole(fd, <char *>&buffer[0], length, offsets[i], pieces)
                if status < 0:
                    break
                total = rotated(total) + look(&buffer[0], length, self.step, self.work_ns)
            start = shm_now_ns() - start
        check("read" if not pieces else "preadv", status)
        self.total = total
        return start


def write_each(uintptr_t address, size_t length, size_t step, unsigned char value):
    """Write one byte in every `step`, and give the nanoseconds."""
    cdef uint64_t start
    cdef size_t i = 0
    if step == 0:
        raise ValueError("the step is 0")
    with nogil:
        start = shm_now_ns()
        while i < length:
            (<volatile unsigned char *>address)[i] = value
            i += step
        start = shm_now_ns() - start
    return start


def read_until(uintptr_t address, size_t length, uintptr_t stop):
    """Read one byte of each page over and over, until the word at `stop` isn't 0: a busy thread."""
    with nogil:
        while shm_load64(<uint64_t *>stop) == 0:
            look(<const unsigned char *>address, length, PAGE, 0)


def fill_words(uintptr_t address, size_t count, uint64_t first):
    """Fill `count` 8-byte words with odd numbers that no two pages have alike.

    Args:
        first: the number of the first word, counted from the file's beginning.
    """
    cdef uint64_t *words = <uint64_t *>address
    cdef uint64_t mixed
    cdef size_t i
    with nogil:
        for i in range(count):
            mixed = (first + i) * <uint64_t>0x9E3779B97F4A7C15
            # The upper half varies from page to page, and the first byte is what most look at.
            words[i] = (mixed ^ mixed >> 32) | 1
