# cython: language_level=3, boundscheck=False, wraparound=False
"""The abstract native endpoint: what every native channel implements and every native loop calls.

A new transport derives from `Endpoint` and overrides `c_send` and `c_recv`; `c_post` and
`c_complete` only where sending has two phases (a rendezvous). The loops need no change.
"""

from libc.errno cimport EBADF, EMSGSIZE
from libc.stdlib cimport free, malloc

import errno as _errno
import os


cdef int check(object what, Py_ssize_t status) except -1:
    """Turns a negative errno into an OSError with its number, its name and what was tried."""
    if status < 0:
        number = <int>-status
        name = _errno.errorcode.get(number, "?")
        raise OSError(number, f"{what}: {os.strerror(number)} ({name})")
    return 0


cdef class Endpoint:
    """One end of a link; see shmbench.channels.Endpoint for the contract."""

    def __cinit__(self, *args, **kwargs):
        self.spins_before_yield = 0xFFFFFFFF

    cdef int c_send(self, const char *data, size_t n) noexcept nogil:
        return -EBADF

    cdef Py_ssize_t c_recv(self, char *data, size_t capacity) noexcept nogil:
        return -EBADF

    cdef int c_post(self, const char *data, size_t n) noexcept nogil:
        return self.c_send(data, n)

    cdef int c_complete(self) noexcept nogil:
        return 0

    def send(self, const unsigned char[::1] message not None):
        """Send one message; returns when the buffer may be changed. Raises OSError."""
        cdef int status
        with nogil:
            status = self.c_send(<const char *>&message[0], message.shape[0])
        check("send", status)

    def recv_into(self, unsigned char[::1] buffer not None):
        """Wait for a message and give its length in bytes. Raises OSError (EMSGSIZE: too small)."""
        cdef Py_ssize_t status
        with nogil:
            status = self.c_recv(<char *>&buffer[0], buffer.shape[0])
        check("receive", status)
        return status

    def post(self, const unsigned char[::1] message not None):
        """Begin to send; the buffer must stay as it is until `complete`. Raises OSError."""
        cdef int status
        with nogil:
            status = self.c_post(<const char *>&message[0], message.shape[0])
        check("send", status)

    def complete(self):
        """Wait until everything posted may be changed again. Raises OSError."""
        cdef int status
        with nogil:
            status = self.c_complete()
        check("send", status)

    def close(self):
        """Release what this end owns; idempotent."""


cdef class Ends:
    def __cinit__(self, list objects not None):
        cdef int i
        self.objects = objects
        self.count = len(objects)
        self.pointers = <void **>malloc(sizeof(void *) * max(1, self.count))
        if self.pointers == NULL:
            raise MemoryError
        for i in range(self.count):
            end = <Endpoint?>objects[i]
            self.pointers[i] = <void *>end

    def __dealloc__(self):
        free(self.pointers)


cdef class NativeTee(Endpoint):
    """A sending end for several targets: posts to each in turn, then completes each."""

    def __cinit__(self, list ends):
        self._ends = Ends(ends)

    cdef int c_send(self, const char *data, size_t n) noexcept nogil:
        cdef int status = self.c_post(data, n)
        return status if status < 0 else self.c_complete()

    cdef int c_post(self, const char *data, size_t n) noexcept nogil:
        cdef int i, status
        for i in range(self._ends.count):
            status = (<Endpoint>self._ends.pointers[i]).c_post(data, n)
            if status < 0:
                return status
        return 0

    cdef int c_complete(self) noexcept nogil:
        cdef int i, status
        for i in range(self._ends.count):
            status = (<Endpoint>self._ends.pointers[i]).c_complete()
            if status < 0:
                return status
        return 0

    def close(self):
        for end in self._ends.objects:
            end.close()


cdef class NullEndpoint(Endpoint):
    """Takes every message and delivers nothing: what a native loop itself costs."""

    cdef int c_send(self, const char *data, size_t n) noexcept nogil:
        return 0

    cdef Py_ssize_t c_recv(self, char *data, size_t capacity) noexcept nogil:
        return capacity
