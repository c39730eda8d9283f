"""Workloads that send in windows: stream (1 to 1), fan_out (1 to N) and fan_in (N to 1)."""

from __future__ import annotations

from time import monotonic_ns

from shmbench.cases import Case
from shmbench.channels import Link
from shmbench.native import loops
from shmbench.workloads.messages import MessageWorkload

_WINDOW_BYTES = 8 << 20
_WINDOW_MAX = 1024
_WINDOW_MIN = 4


class WindowedWorkload(MessageWorkload):
    """Senders send a window of messages, then wait until each receiver has acknowledged it.

    A rank is a sender when it is the source of a link, and a receiver otherwise. A receiver takes
    one message from each sender in turn. The figure is the time of rank 0.
    """

    @classmethod
    def default_window(cls, message_bytes: int) -> int:
        """8 MiB, but at least 4 messages and at most 1024."""
        return max(_WINDOW_MIN, min(_WINDOW_MAX, _WINDOW_BYTES // message_bytes))

    def _window(self) -> int:
        window = self.context.case.window
        assert window is not None
        return window

    def native_batch(self, iterations: int) -> int:
        window = self._window()
        if self.outs:
            (out,) = self.outs.values()
            acks = list(self.ack_ins.values())
            return loops.send_windows(out, acks, self.message, iterations, window, self.check)
        (ack,) = self.ack_outs.values()
        sources = list(self.ins.values())
        return loops.receive_windows(sources, ack, self.buffer, iterations, window, self.check)

    def python_batch(self, iterations: int) -> int:
        window = self._window()
        ack = memoryview(bytearray(8))
        if self.outs:
            (out,) = self.outs.values()
            post, complete, message = out.post, out.complete, self.message
            ack_receives = [end.recv_into for end in self.ack_ins.values()]
            start = monotonic_ns()
            for _ in range(iterations):
                for _ in range(window):
                    post(message)
                complete()
                for receive in ack_receives:
                    receive(ack)
            return monotonic_ns() - start
        (ack_out,) = self.ack_outs.values()
        send_ack, buffer = ack_out.send, self.buffer
        begins = [self.post_recv(end) for end in self.ins.values()]
        completes = [end.complete for end in self.ins.values()]
        start = monotonic_ns()
        for _ in range(iterations):
            for _ in range(window):
                for begin in begins:
                    begin(buffer)
            for complete in completes:
                complete()
            send_ack(ack)
        return monotonic_ns() - start


class Stream(WindowedWorkload):
    """One sender, one receiver: bandwidth, and message rate where messages are small."""

    name = "stream"
    summary = "bandwidth and message rate, one way, with a window"
    operation = "message"
    across_nodes = True
    moves_bytes = True
    max_ranks = 2

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        return (Link(0, (1,)),)

    @classmethod
    def ack_links(cls, ranks: int) -> tuple[Link, ...]:
        return (Link(1, (0,)),)

    @classmethod
    def operations(cls, case: Case) -> int:
        return case.window or 1


class FanOut(WindowedWorkload):
    """One writer, N readers: each message reaches all of them."""

    name = "fan_out"
    summary = "one writer, N readers: each message reaches all"
    operation = "message to all readers"
    moves_bytes = True
    default_ranks = 3

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        return (Link(0, tuple(range(1, ranks))),)

    @classmethod
    def ack_links(cls, ranks: int) -> tuple[Link, ...]:
        return tuple(Link(reader, (0,)) for reader in range(1, ranks))

    @classmethod
    def operations(cls, case: Case) -> int:
        return case.window or 1

    @classmethod
    def bytes_per_operation(cls, case: Case) -> int:
        """What all readers together receive."""
        return (case.message_bytes or 0) * (case.ranks - 1)


class FanIn(WindowedWorkload):
    """N writers, one reader that takes from each in turn."""

    name = "fan_in"
    summary = "N writers, one reader"
    operation = "message received"
    moves_bytes = True
    default_ranks = 3

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        return tuple(Link(writer, (0,)) for writer in range(1, ranks))

    @classmethod
    def ack_links(cls, ranks: int) -> tuple[Link, ...]:
        return (Link(0, tuple(range(1, ranks))),)

    @classmethod
    def operations(cls, case: Case) -> int:
        return (case.window or 1) * (case.ranks - 1)


class MultiPair(WindowedWorkload):
    """Half of the ranks send, each to a rank of the other half, all pairs at once."""

    name = "multi_pair"
    summary = "message rate of all pairs of ranks at once"
    operation = "message of one of the pairs"
    across_nodes = True
    moves_bytes = True
    default_ranks = 4
    timing_rank = None

    @classmethod
    def fits(cls, case: Case) -> bool:
        return case.ranks % 2 == 0

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        return tuple(Link(rank, (rank + ranks // 2,)) for rank in range(ranks // 2))

    @classmethod
    def ack_links(cls, ranks: int) -> tuple[Link, ...]:
        return tuple(Link(rank + ranks // 2, (rank,)) for rank in range(ranks // 2))

    @classmethod
    def operations(cls, case: Case) -> int:
        return (case.window or 1) * (case.ranks // 2)
