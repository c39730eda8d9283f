"""What all workloads over a channel share: endpoints by link, buffers, and the validation pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from shmbench.cases import Case
from shmbench.channels import CHANNELS, Channel, Endpoint, Link
from shmbench.errors import Unavailable, ValidationFailed
from shmbench.regions.pages import PrivateBuffer
from shmbench.workloads import Context, Workload

_VALIDATED_BYTES = 1 << 20  # per link, but at least two messages, so that order is seen
_VALIDATED_MESSAGES_MAX = 32


def _pattern(link: int, number: int, size: int) -> np.ndarray:
    """The content of one validation message: another one for each link and number."""
    return np.random.default_rng([link, number]).integers(0, 256, size, dtype=np.uint8)


class MessageWorkload(Workload):
    """Base of workloads that move messages: this rank's ends of each link, and two buffers.

    Attributes:
        outs, ins: this rank's endpoint of each link that it sends to, or receives from.
        ack_outs, ack_ins: the same for the acknowledgements.
        message, buffer: private memory, each as large as the channel's messages.
        check: whether the native loops compare each message's number.
        sends_at_once: every rank posts before it receives.
    """

    sends_at_once: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        assert context.channel is not None
        self.context = context
        self.rank = context.group.rank
        self.native = context.case.driver == "native"
        self.check = context.channel.delivers
        self._links = self.links(context.case.ranks)
        self.outs, self.ins = self._ends(context.channel, self._links)
        self.ack_outs: dict[int, Endpoint] = {}
        self.ack_ins: dict[int, Endpoint] = {}
        if context.acks is not None:
            self.ack_outs, self.ack_ins = self._ends(
                context.acks, self.ack_links(context.case.ranks)
            )
        size = self.channel_bytes(context.case, type(context.channel))
        pages = context.case.pages or "prefault"
        self._buffers = [PrivateBuffer(size, pages), PrivateBuffer(size, pages)]
        self.message, self.buffer = (buffer.memory for buffer in self._buffers)
        self.batches = 0

    @classmethod
    def probe(cls, case: Case) -> Unavailable | None:
        if cls.sends_at_once and CHANNELS.get(f"{case.driver}/{case.channel}").inflight_bytes == 0:
            return Unavailable(
                f"{case.channel}: a send may wait for its receiver, and in {case.workload} all "
                "ranks send first",
                "choose a channel that doesn't wait, such as mpi_p2p_nonblocking",
            )
        return None

    def _ends(
        self, channel: Channel, links: tuple[Link, ...]
    ) -> tuple[dict[int, Endpoint], dict[int, Endpoint]]:
        outs = {i: channel.sender(i) for i, link in enumerate(links) if link.source == self.rank}
        ins = {i: channel.receiver(i) for i, link in enumerate(links) if self.rank in link.targets}
        return outs, ins

    def post_recv(self, end: Endpoint) -> Callable[[memoryview], object]:
        """What begins a reception; a whole one, where the channel can have but one under way."""
        assert self.context.channel is not None
        if self.context.channel.posts_receptions:
            begin: Callable[[memoryview], object] = end.post_recv  # type: ignore[attr-defined]
            return begin
        return end.recv_into

    def validate(self) -> None:
        """Send random messages over each link in turn; receivers compare every byte, in order."""
        if not self.check:
            return
        size = len(self.message)
        count = max(2, min(_VALIDATED_MESSAGES_MAX, _VALIDATED_BYTES // size))
        scratch = np.empty(size, np.uint8)
        for link in range(len(self._links)):
            for number in range(count):
                if link in self.outs:
                    self.outs[link].send(_pattern(link, number, size).data)
                elif link in self.ins:
                    scratch.fill(0)
                    received = self.ins[link].recv_into(scratch.data)
                    if received != size or not np.array_equal(
                        scratch, _pattern(link, number, size)
                    ):
                        raise ValidationFailed(
                            f"rank {self.rank}: message {number} of {size} bytes over link {link} "
                            f"arrived with other bytes ({received} bytes came)",
                            "the channel corrupts or reorders messages: please report it",
                        )

    def batch(self, iterations: int) -> int:
        self.batches += 1
        if self.native:
            return self.native_batch(iterations)
        stamp = self.batches.to_bytes(8, "little")[: len(self.message)]
        if self.outs:
            self.message[: len(stamp)] = stamp
        elapsed = self.python_batch(iterations)
        if self.ins and self.check and self.buffer[: len(stamp)] != stamp:
            raise ValidationFailed(
                f"rank {self.rank}: the last message of batch {self.batches} is not in the buffer",
                "the channel gives back without the message: please report it",
            )
        return elapsed

    @abstractmethod
    def native_batch(self, iterations: int) -> int:
        """The native loop."""

    @abstractmethod
    def python_batch(self, iterations: int) -> int:
        """The same loop in Python; the message is stamped before, the buffer looked at after."""

    def close(self) -> None:
        for ends in (self.outs, self.ins, self.ack_outs, self.ack_ins):
            for end in ends.values():
                end.close()
        for buffer in self._buffers:
            buffer.close()
