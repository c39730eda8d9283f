"""bidirectional: both ranks send to each other at once."""

from __future__ import annotations

from time import monotonic_ns

from shmbench.cases import Case
from shmbench.channels import Channel, Link
from shmbench.native import loops
from shmbench.workloads.messages import MessageWorkload


class Bidirectional(MessageWorkload):
    """Each rank posts a message and receives the other's, so that both directions are busy.

    A message that a link can't hold goes in pieces, all of one size: otherwise both ranks would
    wait for the other to receive. The last piece is padded where the size isn't a multiple.
    """

    name = "bidirectional"
    summary = "both ranks send at once; one operation is a message each way"
    operation = "exchange of two messages"
    moves_bytes = True
    sends_at_once = True
    max_ranks = 2

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        return (Link(0, (1,)), Link(1, (0,)))

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
        out, receive = self.outs[self.rank], self.ins[1 - self.rank].recv_into
        post, complete, message, buffer = out.post, out.complete, self.message, self.buffer
        count = iterations * self._pieces()
        start = monotonic_ns()
        for _ in range(count):
            post(message)
            receive(buffer)
            complete()
        return monotonic_ns() - start
