# cython: language_level=3, boundscheck=False, wraparound=False
"""Endpoints over file descriptors: pipes, sockets and POSIX message queues.

Every message of a channel has the same size, so a byte stream needs no length in front of it: both
ends know `message_bytes`. A message of another size, and a buffer that is too small, are EMSGSIZE;
nothing has been taken from the stream then. A peer that is gone is EPIPE or ECONNRESET. Calls that
a signal interrupts (EINTR) go on.
"""

from libc.errno cimport EINTR, EMSGSIZE, EPIPE, errno
from posix.unistd cimport read, write

from shmbench.native.endpoint cimport Endpoint

import os


cdef extern from "sys/socket.h" nogil:
    int MSG_NOSIGNAL
    ssize_t socket_send "send"(int fd, const void *data, size_t n, int flags)
    ssize_t socket_recv "recv"(int fd, void *data, size_t n, int flags)


cdef extern from "mqueue.h" nogil:
    int mq_send(int queue, const char *data, size_t n, unsigned int priority)
    ssize_t mq_receive(int queue, char *data, size_t capacity, unsigned int *priority)


cdef class DescriptorEndpoint(Endpoint):
    """One end of a wire that is a file descriptor, which it owns.

    Args:
        fd: an open, blocking descriptor.
        message_bytes: the size of every message.
    """

    cdef int _fd
    cdef size_t _message_bytes

    def __cinit__(self, int fd, size_t message_bytes, *args):
        self._fd = fd
        self._message_bytes = message_bytes

    def close(self):
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


cdef class PipeEndpoint(DescriptorEndpoint):
    """One end of a pipe (pipe(7)); SIGPIPE must be ignored, as CPython does from its start."""

    cdef int c_send(self, const char *data, size_t n) noexcept nogil:
        cdef ssize_t moved
        if n != self._message_bytes:
            return -EMSGSIZE
        while n:
            moved = write(self._fd, data, n)
            if moved >= 0:
                data += moved
                n -= moved
            elif errno != EINTR:
                return -errno
        return 0

    cdef Py_ssize_t c_recv(self, char *data, size_t capacity) noexcept nogil:
        cdef ssize_t moved
        cdef size_t missing = self._message_bytes
        if capacity < missing:
            return -EMSGSIZE
        while missing:
            moved = read(self._fd, data, missing)
            if moved > 0:
                data += moved
                missing -= moved
            elif moved == 0:
                return -EPIPE
            elif errno != EINTR:
                return -errno
        return self._message_bytes


cdef class SocketEndpoint(DescriptorEndpoint):
    """One end of a connected socket, of a stream or of packets.

    Args:
        fd, message_bytes: as above.
        piece_bytes: no call sends more than this; what a socket of packets takes as one packet.
    """

    cdef size_t _piece_bytes

    def __cinit__(self, int fd, size_t message_bytes, size_t piece_bytes):
        self._piece_bytes = piece_bytes

    cdef int c_send(self, const char *data, size_t n) noexcept nogil:
        cdef ssize_t moved
        if n != self._message_bytes:
            return -EMSGSIZE
        while n:
            moved = socket_send(self._fd, data, min(n, self._piece_bytes), MSG_NOSIGNAL)
            if moved >= 0:
                data += moved
                n -= moved
            elif errno != EINTR:
                return -errno
        return 0

    cdef Py_ssize_t c_recv(self, char *data, size_t capacity) noexcept nogil:
        cdef ssize_t moved
        cdef size_t missing = self._message_bytes
        if capacity < missing:
            return -EMSGSIZE
        while missing:
            moved = socket_recv(self._fd, data, missing, 0)
            if moved > 0:
                data += moved
                missing -= moved
            elif moved == 0:
                return -EPIPE
            elif errno != EINTR:
                return -errno
        return self._message_bytes


cdef class QueueEndpoint(DescriptorEndpoint):
    """One end of a POSIX message queue (mq_overview(7)); on Linux its mqd_t is a descriptor.

    Args:
        fd, message_bytes: as above.
        piece_bytes: the queue's mq_msgsize, at most message_bytes; larger messages go in pieces.
    """

    cdef size_t _piece_bytes

    def __cinit__(self, int fd, size_t message_bytes, size_t piece_bytes):
        self._piece_bytes = piece_bytes

    cdef int c_send(self, const char *data, size_t n) noexcept nogil:
        cdef size_t piece
        if n != self._message_bytes:
            return -EMSGSIZE
        # mq_receive wants room for a whole piece even where a short one comes. With the short one
        # first, there is always that much room, and no piece has to take a way round.
        piece = n % self._piece_bytes
        if piece == 0:
            piece = self._piece_bytes
        while n:
            if mq_send(self._fd, data, piece, 0) == 0:
                data += piece
                n -= piece
                piece = self._piece_bytes
            elif errno != EINTR:
                return -errno
        return 0

    cdef Py_ssize_t c_recv(self, char *data, size_t capacity) noexcept nogil:
        cdef ssize_t moved
        cdef size_t missing = self._message_bytes
        if capacity < missing:
            return -EMSGSIZE
        while missing:
            moved = mq_receive(self._fd, data, self._piece_bytes, NULL)
            if moved >= 0:
                data += moved
                missing -= moved
            elif errno != EINTR:
                return -errno
        return self._message_bytes
