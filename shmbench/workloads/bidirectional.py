"""bidirectional: both ranks send to each other at once."""

from __future__ import annotations

from time import monotonic_ns

from shmbench.cases import Case
from shmbench.channels import CHANNELS, Channel, Link
from shmbench.native import loops
from shmbench.workloads.messages import MessageWorkload


class Bidirectional(MessageWorkload):
    """Each rank posts a message and receives the other's, so that both directions are busy.

    A message that a link can't hold goes in pieces, all of one size: otherwise both ranks would
    wait for the other to receive. The last piece is padded where the size isn't a multiple.
    With a window, so many messages each way are under way at once.
    """

    name = "bidirectional"
    summary = "both ranks send at once; one operation is a message each way"
    operation = "exchange of two messages"
    moves_bytes = True
    across_nodes = True
    sends_at_once = True
    max_ranks = 2

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        return (Link(0, (1,)), Link(1, (0,)))

    @classmethod
    def fits(cls, case: Case) -> bool:
        channel = CHANNELS.get(f"{case.driver}/{case.channel}")
        return case.window is None or channel.posts_receptions

    @classmethod
    def operations(cls, case: Case) -> int:
        return case.window or 1

    @classmethod
    def pieces(cls, case: Case, channel: type[Channel]) -> int:
        """How many pieces a message goes in."""
        return -(-(case.message_bytes or 1) // max(1, channel.inflight_bytes))

    @classmethod
    def channel_bytes(cls, case: Case, channel: type[Channel]) -> int:
        return -(-(case.message_bytes or 1) // cls.pieces(case, channel))

    @classmethod
    def bytes_per_operation(cls, case: Case) -> int:
        return 2 * (case.message_bytes or 0)

    def _pieces(self) -> int:
        assert self.context.channel is not None
        return self.pieces(self.context.case, type(self.context.channel))

    def native_batch(self, iterations: int) -> int:
        return loops.exchange(
            self.outs[self.rank],
            self.ins[1 - self.rank],
            self.message,
            self.buffer,
            iterations,
            self._pieces(),
            self.check,
        )

    def python_batch(self, iterations: int) -> int:
        if self.context.case.window is not None:
            return self._windows(iterations, self.context.case.window)
        out, receive = self.outs[self.rank], self.ins[1 - self.rank].recv_into
        post, complete, message, buffer = out.post, out.complete, self.message, self.buffer
        count = iterations * self._pieces()
        start = monotonic_ns()
        for _ in range(count):
            post(message)
            receive(buffer)
            complete()
        return monotonic_ns() - start

    def _windows(self, iterations: int, window: int) -> int:
        out, back = self.outs[self.rank], self.ins[1 - self.rank]
        post, receive, message, buffer = out.post, self.post_recv(back), self.message, self.buffer
        sent, received = out.complete, back.complete
        start = monotonic_ns()
        for _ in range(iterations):
            for _ in range(window):
                receive(buffer)
            for _ in range(window):
                post(message)
            sent()
            received()
        return monotonic_ns() - start
