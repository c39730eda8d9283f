"""barrier: all ranks meet, by a dissemination barrier over the channel."""

from __future__ import annotations

from time import monotonic_ns

from shmbench.channels import Link
from shmbench.native import loops
from shmbench.workloads.messages import MessageWorkload


def rounds(ranks: int) -> int:
    """How many rounds a dissemination barrier takes: ceil(log2(ranks))."""
    return (ranks - 1).bit_length()


class Barrier(MessageWorkload):
    """In round k each rank tells rank + 2^k and hears rank - 2^k (Hensgen, Finkel, Manber 1988)."""

    name = "barrier"
    summary = "all ranks meet: a dissemination barrier over the channel"
    operation = "barrier"
    has_sizes = False
    sends_at_once = True

    @classmethod
    def links(cls, ranks: int) -> tuple[Link, ...]:
        return tuple(
            Link(rank, ((rank + (1 << k)) % ranks,))
            for k in range(rounds(ranks))
            for rank in range(ranks)
        )

    def native_batch(self, iterations: int) -> int:
        outs, ins = list(self.outs.values()), list(self.ins.values())
        return loops.disseminate(outs, ins, iterations, self.check)

    def python_batch(self, iterations: int) -> int:
        ends = [
            (out.post, end.recv_into, out.complete)
            for out, end in zip(self.outs.values(), self.ins.values(), strict=True)
        ]
        message, buffer = self.message, self.buffer
        start = monotonic_ns()
        for _ in range(iterations):
            for post, receive, complete in ends:
                post(message)
                receive(buffer)
                complete()
        return monotonic_ns() - start
