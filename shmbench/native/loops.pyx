# cython: language_level=3, boundscheck=False, wraparound=False
"""The timed loops: one a workload, over abstract endpoints or bare memory.

Each is called in every rank that takes part, releases the GIL, reads the clock twice, and gives the
nanoseconds between. Each message carries its number in its first bytes, and each receiver compares
it: a figure is only given for messages that arrived, in order. The number costs one store and one
comparison, and is left out (check = False) only over a null channel, which delivers nothing.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from shmbench.native.atomics cimport (
    shm_add64, shm_load64, shm_now_ns, shm_pause, shm_store64,
)
from shmbench.native.endpoint cimport Endpoint, Ends, check as check_status
from shmbench.native.histogram cimport Histogram

from shmbench.errors import ValidationFailed


cdef extern from "sched.h" nogil:
    int sched_yield()


cdef enum:
    WRONG_NUMBER = -100000  # below every negative errno


cdef inline void number(char *message, size_t n, uint64_t value) noexcept nogil:
    if n >= 8:
        memcpy(message, &value, 8)
    else:
        memcpy(message, &value, n)


cdef inline Py_ssize_t verify(
    Py_ssize_t received, const char *message, size_t n, uint64_t expected, uint64_t mask
) noexcept nogil:
    """0 when the message is whole and the expected one; otherwise what went wrong."""
    cdef uint64_t value = 0
    if received < 0:
        return received
    if n >= 8:
        memcpy(&value, message, 8)  # of a known size: no call
    else:
        memcpy(&value, message, n)
    if <size_t>received != n or (value ^ expected) & mask:
        return WRONG_NUMBER
    return 0


cdef uint64_t mask_of(size_t n, bint checked):
    if not checked:
        return 0
    return <uint64_t>-1 if n >= 8 else (<uint64_t>1 << (8 * n)) - 1


cdef int judge(Py_ssize_t status, uint64_t i) except -1:
    if status == WRONG_NUMBER:
        raise ValidationFailed(
            f"message {i} did not arrive: another number, or another length, came in its place",
            "the channel loses or reorders messages: this is a defect, please report it",
        )
    check_status("message", status)
    return 0


def ping_pong(
    Endpoint out not None,
    Endpoint back not None,
    unsigned char[::1] message not None,
    unsigned char[::1] buffer not None,
    uint64_t iterations,
    bint initiator,
    bint check=True,
    Histogram histogram=None,
):
    """Round trips: the initiator sends and waits for the echo, the other sends back what it got.

    Args:
        out, back: this rank's sending and receiving end.
        message: what the initiator sends. buffer: what arrives; as large as message.
        histogram: takes each round trip's nanoseconds, at the initiator. The clock is read while the message
            is under way, so reading it lengthens no round trip that lasts longer than the reading.

    Returns:
        nanoseconds for all iterations.
    """
    cdef uint64_t i = 0, start, previous = 0, now
    cdef size_t n = message.shape[0]
    cdef uint64_t mask = mask_of(n, check)
    cdef char *data = <char *>&message[0]
    cdef char *into = <char *>&buffer[0]
    cdef Py_ssize_t status = 0, received = 0
    if buffer.shape[0] != message.shape[0]:
        raise ValueError("buffer and message differ in size")
    with nogil:
        start = shm_now_ns()
        # What arrived is looked at when the next message is under way: nobody waits for that.
        if not initiator:
            for i in range(iterations):
                received = back.c_recv(into, n)
                if received < 0:
                    status = received
                    break
                status = out.c_send(into, n)
                if status < 0:
                    break
                status = verify(received, into, n, i, mask)
                if status < 0:
                    break
        else:
            number(data, n, 0)
            for i in range(iterations):
                status = out.c_send(data, n)
                if status < 0:
                    break
                number(data, n, i + 1)
                if histogram is not None:
                    now = shm_now_ns()
                    if i:
                        histogram.c_record(now - previous)
                    previous = now
                if i:
                    status = verify(received, into, n, i - 1, mask)
                    if status < 0:
                        break
                received = back.c_recv(into, n)
            if status == 0 and iterations:
                status = verify(received, into, n, i, mask)
        start = shm_now_ns() - start
    judge(status, i)
    return start


def send_windows(
    Endpoint out not None,
    list acks not None,
    unsigned char[::1] message not None,
    uint64_t iterations,
    uint32_t window,
    bint check=True,
):
    """Send `window` messages, wait for one acknowledgement from each of `acks`; so many times.

    Returns:
        nanoseconds for all iterations, until the last acknowledgement.
    """
    cdef uint64_t i = 0, start, ack
    cdef uint32_t w
    cdef int a
    cdef size_t n = message.shape[0]
    cdef uint64_t mask = mask_of(8, check)
    cdef char *data = <char *>&message[0]
    cdef Py_ssize_t status = 0
    cdef Ends ends = Ends(acks)
    with nogil:
        start = shm_now_ns()
        for i in range(iterations):
            for w in range(window):
                number(data, n, i * window + w)
                status = out.c_send(data, n)
                if status < 0:
                    break
            for a in range(ends.count):
                if status < 0:
                    break
                status = verify((<Endpoint>ends.pointers[a]).c_recv(<char *>&ack, 8), <char *>&ack, 8, i, mask)
            if status < 0:
                break
        start = shm_now_ns() - start
    judge(status, i)
    return start


def receive_windows(
    list sources not None,
    Endpoint ack_out not None,
    unsigned char[::1] buffer not None,
    uint64_t iterations,
    uint32_t window,
    bint check=True,
):
    """Receive `window` messages from each source in turn, then acknowledge; so many times.

    Returns:
        nanoseconds for all iterations, until the last message was acknowledged.
    """
    cdef uint64_t i = 0, start
    cdef uint32_t w
    cdef int s
    cdef size_t n = buffer.shape[0]
    cdef uint64_t mask = mask_of(n, check)
    cdef char *into = <char *>&buffer[0]
    cdef Py_ssize_t status = 0
    cdef Ends ends = Ends(sources)
    with nogil:
        start = shm_now_ns()
        for i in range(iterations):
            for w in range(window):
                for s in range(ends.count):
                    status = verify(
                        (<Endpoint>ends.pointers[s]).c_recv(into, n), into, n, i * window + w, mask
                    )
                    if status < 0:
                        break
                if status < 0:
                    break
            if status < 0:
                break
            status = ack_out.c_send(<const char *>&i, 8)
            if status < 0:
                break
        start = shm_now_ns() - start
    judge(status, i)
    return start


def exchange(
    Endpoint out not None,
    Endpoint back not None,
    unsigned char[::1] message not None,
    unsigned char[::1] buffer not None,
    uint64_t iterations,
    uint32_t pieces,
    bint check=True,
):
    """Both ranks send to each other at once: post a piece, receive the peer's, complete; repeat.

    Args:
        message, buffer: one piece; `pieces` of them are one message.
    """
    cdef uint64_t i = 0, p, start
    cdef size_t n = message.shape[0]
    cdef uint64_t mask = mask_of(n, check)
    cdef char *data = <char *>&message[0]
    cdef char *into = <char *>&buffer[0]
    cdef Py_ssize_t status = 0
    if buffer.shape[0] != message.shape[0]:
        raise ValueError("buffer and message differ in size")
    with nogil:
        start = shm_now_ns()
        for i in range(iterations):
            for p in range(pieces):
                number(data, n, i * pieces + p)
                status = out.c_post(data, n)
                if status < 0:
                    break
                status = verify(back.c_recv(into, n), into, n, i * pieces + p, mask)
                if status < 0:
                    break
                status = out.c_complete()
                if status < 0:
                    break
            if status < 0:
                break
        start = shm_now_ns() - start
    judge(status, i)
    return start


def disseminate(list outs not None, list backs not None, uint64_t iterations, bint check=True):
    """Dissemination barrier (Hensgen, Finkel, Manber 1988) over messages of 8 bytes.

    Args:
        outs, backs: this rank's ends for each round: it tells rank + 2^k, and hears rank - 2^k.

    Returns:
        nanoseconds for all barriers.
    """
    cdef uint64_t i = 0, start, heard = 0
    cdef int k, rounds = len(outs)
    cdef uint64_t mask = mask_of(8, check)
    cdef Py_ssize_t status = 0
    cdef Ends sending = Ends(outs)
    cdef Ends hearing = Ends(backs)
    with nogil:
        start = shm_now_ns()
        for i in range(iterations):
            for k in range(rounds):
                status = (<Endpoint>sending.pointers[k]).c_post(<const char *>&i, 8)
                if status < 0:
                    break
                status = verify(
                    (<Endpoint>hearing.pointers[k]).c_recv(<char *>&heard, 8), <char *>&heard, 8, i, mask
                )
                if status < 0:
                    break
                status = (<Endpoint>sending.pointers[k]).c_complete()
                if status < 0:
                    break
            if status < 0:
                break
        start = shm_now_ns() - start
    judge(status, i)
    return start


def hand_over(uintptr_t mine, uintptr_t theirs, uint64_t iterations, bint initiator):
    """Pass a number to and fro through two words in two cache lines; nothing else moves.

    Args:
        mine, theirs: addresses of the word that this rank writes, and of the one that it reads;
            both zero at the first call, 128 bytes apart.

    Returns:
        nanoseconds for all round trips.
    """
    cdef uint64_t *to = <uint64_t *>mine
    cdef const uint64_t *source = <const uint64_t *>theirs
    cdef uint64_t base = shm_load64(to)
    cdef uint64_t i, start
    with nogil:
        start = shm_now_ns()
        if initiator:
            for i in range(base + 1, base + iterations + 1):
                shm_store64(to, i)
                while shm_load64(source) != i:
                    shm_pause()
        else:
            for i in range(base + 1, base + iterations + 1):
                while shm_load64(source) != i:
                    shm_pause()
                shm_store64(to, i)
        start = shm_now_ns() - start
    return start


def atomic_adds(uintptr_t address, uint64_t iterations):
    """Add 1 to the word at address, atomically, so many times; gives the nanoseconds."""
    cdef uint64_t *word = <uint64_t *>address
    cdef uint64_t i, start
    with nogil:
        start = shm_now_ns()
        for i in range(iterations):
            shm_add64(word, 1)
        start = shm_now_ns() - start
    return start


def copy_whole(uintptr_t to, uintptr_t source, size_t n, uint64_t iterations):
    """memcpy n bytes, so many times: what one copy costs. Gives the nanoseconds."""
    cdef uint64_t i, start
    with nogil:
        start = shm_now_ns()
        for i in range(iterations):
            memcpy(<void *>to, <const void *>source, n)
        start = shm_now_ns() - start
    return start


def copy_through(
    uintptr_t message,
    size_t n,
    uintptr_t slots,
    layout,
    uint64_t iterations,
    bint into_slots,
    uintptr_t finished,
    uint64_t ranks_finished,
):
    """memcpy n bytes between a message and a ring's slots, fragment by fragment, so many times.

    Two ranks do it at once over the same slots, one into them and one out of them, and neither
    waits for the other: what copying twice costs when nothing has to be agreed on. The one that
    is done first goes on, untimed, until the other is done too: copying alone would be faster.

    Args:
        layout: a shmbench.native.ring.Layout for messages of n bytes.
        finished: address of a shared counter of ranks that are done, over all calls.
        ranks_finished: what the counter says when all are done with this call.

    Returns:
        nanoseconds for the timed iterations.
    """
    cdef size_t fragment = layout.fragment_bytes, stride = layout.stride_bytes
    cdef size_t offset = layout.payload_offset, done, piece
    cdef uint64_t mask = layout.slots - 1, i = 0, start, elapsed = 0, index = 0
    cdef char *slot
    with nogil:
        start = shm_now_ns()
        while True:
            done = 0
            while done < n:
                piece = min(fragment, n - done)
                slot = <char *>slots + (index & mask) * stride + offset
                if into_slots:
                    memcpy(slot, <const char *>message + done, piece)
                else:
                    memcpy(<char *>message + done, slot, piece)
                done += piece
                index += 1
            i += 1
            if i == iterations:
                elapsed = shm_now_ns() - start
                shm_add64(<uint64_t *>finished, 1)
            if i >= iterations and shm_load64(<uint64_t *>finished) >= ranks_finished:
                break
    return elapsed


def compute(uint64_t steps):
    """So many multiplications, each of which waits for the one before it; gives the last product.

    Arithmetic that nothing speeds up, of about a nanosecond a step, with neither memory nor calls.
    """
    cdef uint64_t value = 1, i
    with nogil:
        for i in range(steps):
            value = value * 6364136223846793005ULL + 1442695040888963407ULL
    return value
