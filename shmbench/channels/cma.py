"""Cross-memory attach: one copy, straight from the sender's buffer into the receiver's."""

from __future__ import annotations

import ctypes
import errno
import mmap
from typing import Any, Self

from shmbench.channels import ChannelSpec
from shmbench.channels.pairwise import PairwiseChannel, wires
from shmbench.errors import ShmbenchError, Unavailable
from shmbench.group import Group
from shmbench.group.process import run_ranks
from shmbench.native.cma import CONTROL_BYTES, CmaReceiver, CmaSender, allow_attach
from shmbench.regions import Span

_SPINS_BEFORE_YIELD = 100
_REMEDIES = {
    errno.EPERM: "allow it with: sysctl kernel.yama.ptrace_scope=0, "
    "or give a container the capability SYS_PTRACE",
    errno.ENOSYS: "this needs a kernel with CONFIG_CROSS_MEMORY_ATTACH",
}


class CmaChannel(PairwiseChannel):
    """A rendezvous: the sender publishes where its message lies, the receiver fetches it.

    Only a control block a wire lies in the region, so the region's kind hardly matters. A rank
    whose peer died waits for ever: nothing tells it.
    """

    kind = "cma"
    driver = "native"
    copies = 1
    uses_region = True
    inflight_messages = 1
    inflight_bytes = 1 << 62  # the message stays where it is

    def __init__(self, rank: int, spec: ChannelSpec, address: int) -> None:
        allow_attach()
        self.rank = rank
        self.spec = spec
        self._senders: dict[int, CmaSender] = {}
        self._receivers: dict[int, CmaReceiver] = {}
        for index, wire in enumerate(wires(spec)):
            block = address + index * CONTROL_BYTES
            if wire.source == rank:
                self._senders[index] = CmaSender(block)
            if wire.target == rank:
                self._receivers[index] = CmaReceiver(block)
        if spec.yielding:
            for endpoint in (*self._senders.values(), *self._receivers.values()):
                endpoint.spins_before_yield = _SPINS_BEFORE_YIELD

    @classmethod
    def probe(cls, spec: ChannelSpec | None = None) -> Unavailable | None:
        return _probe_reading()

    @classmethod
    def region_bytes(cls, spec: ChannelSpec) -> int:
        return len(wires(spec)) * CONTROL_BYTES

    @classmethod
    def open(
        cls, group: Group, spec: ChannelSpec, region: Span | None, inherited: Any = None
    ) -> Self:
        assert region is not None, "cma keeps its control blocks in a region"
        return cls(group.rank, spec, region.address)

    def wire_sender(self, wire: int) -> CmaSender:
        return self._senders[wire]

    def wire_receiver(self, wire: int) -> CmaReceiver:
        return self._receivers[wire]

    def close(self) -> None:
        """Nothing is held: the control blocks are the region's."""


def _probe_reading() -> Unavailable | None:
    """Fork two siblings, of which one reads the other; a parent may read its child anyway."""
    blocks = mmap.mmap(-1, CONTROL_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(blocks))

    def body(group: Group) -> bytes:
        sent = b"read me"
        if group.rank == 0:
            allow_attach()
            CmaSender(address).post(memoryview(sent))
            group.barrier()
            return b""
        received = bytearray(len(sent))
        try:
            receiver = CmaReceiver(address)
            receiver.spins_before_yield = _SPINS_BEFORE_YIELD
            receiver.recv_into(memoryview(received))
        except OSError as error:
            return b"%d %s" % (error.errno or 0, str(error.strerror).encode())
        finally:
            group.barrier()
        return b"" if received == sent else b"0 other bytes than those sent"

    try:
        _, refusal = run_ranks(2, body, timeout_s=10.0)
    except ShmbenchError as error:
        return Unavailable(f"cma: {error.message}", error.remedy)
    finally:
        blocks.close()
    if not refusal:
        return None
    number, _, why = refusal.decode().partition(" ")
    return Unavailable(f"cma: {why}", _REMEDIES.get(int(number), "see process_vm_readv(2)"))
