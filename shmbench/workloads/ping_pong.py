"""ping_pong: latency. Rank 1 sends back what rank 0 sent; one way is half a round trip."""

from __future__ import annotations

from time import monotonic_ns

from shmbench.cases import Case
from shmbench.channels import Link
from shmbench.native import loops
from shmbench.native.histogram import Histogram
from shmbench.workloads.messages import MessageWorkload


class PingPong(MessageWorkload):
    """Latency by message size, with a histogram of the single round trips."""

    name = "ping_pong"
    summary = "latency: half of a round trip between two ranks"
    operation = "one-way message"
    has_percentiles = True
    across_nodes = True
    max_ranks = 2

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        return (Link(0, (1,)), Link(1, (0,)))

    @classmethod
    def operations(cls, case: Case) -> int:
        return 2

    def native_batch(self, iterations: int, histogram: Histogram | None = None) -> int:
        return loops.ping_pong(
            self.outs[self.rank],
            self.ins[1 - self.rank],
            self.message,
            self.buffer,
            iterations,
            self.rank == 0,
            self.check,
            histogram,
        )

    def python_batch(self, iterations: int) -> int:
        send, receive = self.outs[self.rank].send, self.ins[1 - self.rank].recv_into
        message, buffer = self.message, self.buffer
        start = monotonic_ns()
        if self.rank == 0:
            for _ in range(iterations):
                send(message)
                receive(buffer)
        else:
            for _ in range(iterations):
                receive(buffer)
                send(buffer)
        return monotonic_ns() - start

    def histogram_batch(self, iterations: int, histogram: Histogram) -> None:
        if self.native:
            self.native_batch(iterations, histogram)
        elif self.rank != 0:
            self.python_batch(iterations)
        else:
            send, receive = self.outs[0].send, self.ins[1].recv_into
            message, buffer = self.message, self.buffer
            previous = 0
            for _ in range(iterations):
                send(message)
                now = monotonic_ns()  # while the message is under way
                if previous:
                    histogram.record(now - previous)
                previous = now
                receive(buffer)
