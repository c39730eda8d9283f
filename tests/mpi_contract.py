"""Run by `python -m mpi4py` in three ranks: the contracts of channels and regions, for MPI's kinds.

Prints the name of each check that held; an exception ends the job.
"""

from __future__ import annotations

import errno
import random
import sys

from mpi4py import MPI

from shmbench.channels import CHANNELS, Channel, ChannelSpec, Link
from shmbench.regions import REGIONS, RegionSpec

MPI_REGIONS = ("mpi_window", "mpi_window_noncontig", "mpi_mmap", "posix_shm", "file", "memfd")
SIZES = (1, 8, 4096, 65536 + 13, (1 << 20) + 1)
COUNT = 12


class CommGroup:
    """A communicator as a group."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.rank, self.size = comm.rank, comm.size

    def barrier(self) -> None:
        self.comm.Barrier()

    def allgather(self, item: bytes) -> list[bytes]:
        return self.comm.allgather(item)


GROUP = CommGroup(MPI.COMM_WORLD)


def payload(link: int, number: int, size: int) -> bytes:
    return random.Random(link << 32 | number).randbytes(size)


def opened(kind: str, links: tuple[Link, ...], size: int) -> Channel:
    return CHANNELS.get(f"python/{kind}").open(GROUP, ChannelSpec(links, size, True), None)


def expect(channel: Channel, link: int, number: int, size: int, spare: int = 0) -> None:
    buffer = bytearray(size + spare)
    assert channel.receiver(link).recv_into(memoryview(buffer)) == size
    assert buffer[:size] == payload(link, number, size), (link, number)


def check_links(kind: str, links: tuple[Link, ...], size: int) -> None:
    """Messages arrive whole and in order, also in a larger buffer."""
    channel = opened(kind, links, size)
    for number in range(COUNT):
        for index, link in enumerate(links):
            if link.source == GROUP.rank:
                channel.sender(index).send(memoryview(payload(index, number, size)))
            elif GROUP.rank in link.targets:
                expect(channel, index, number, size, number % 3)
    GROUP.barrier()
    channel.close()
    channel.close()


def check_windows(kind: str, size: int) -> None:
    """Many messages posted from one buffer, then completed; received into one as well."""
    channel = opened(kind, (Link(0, (1,)),), size)
    if GROUP.rank == 0:
        message, end = memoryview(bytes([7]) * size), channel.sender(0)
        for _ in range(200):
            end.post(message)
        end.complete()
    elif GROUP.rank == 1:
        buffer, end = memoryview(bytearray(size)), channel.receiver(0)
        receive = getattr(end, "post_recv", end.recv_into)
        for _ in range(200):
            receive(buffer)
        end.complete()
        assert bytes(buffer) == bytes([7]) * size
    GROUP.barrier()
    channel.close()


def check_both_ways(kind: str, size: int) -> None:
    """Both ranks post before either receives."""
    channel = opened(kind, (Link(0, (1,)), Link(1, (0,))), size)
    if GROUP.rank < 2:
        mine = channel.sender(GROUP.rank)
        count = min(2, channel.inflight_messages)
        messages = [payload(GROUP.rank, number, size) for number in range(count)]
        for message in messages:
            mine.post(memoryview(message))
        for number in range(count):
            expect(channel, 1 - GROUP.rank, number, size)
        mine.complete()
    GROUP.barrier()
    channel.close()


def check_too_small(kind: str) -> None:
    """A buffer that is too small is EMSGSIZE, and nothing behind its end is written."""
    channel = opened(kind, (Link(0, (1,)),), 64)
    if GROUP.rank == 0:
        channel.sender(0).send(memoryview(bytes([9]) * 64))
    elif GROUP.rank == 1:
        buffer = bytearray(64)
        end = channel.receiver(0)
        number = 0
        try:
            end.recv_into(memoryview(buffer)[:63])
        except OSError as error:
            number = error.errno or 0
        assert number == errno.EMSGSIZE
        assert buffer[63] == 0
        if kind == "mpi_rma_put_fence":  # both ranks of a fence have to call it
            end.recv_into(memoryview(buffer))
    GROUP.barrier()
    channel.close()


def check_channel(kind: str) -> None:
    for size in SIZES:
        check_links(kind, (Link(0, (1,)),), size)
    check_links(kind, (Link(0, (1, 2)),), 5000)
    check_links(kind, (Link(1, (0,)), Link(2, (0,))), 5000)
    check_windows(kind, 8)
    check_windows(kind, 4096)
    if CHANNELS.get(f"python/{kind}").inflight_bytes:
        for size in (8, 1 << 20):
            check_both_ways(kind, size)
    check_too_small(kind)


def check_region(kind: str) -> None:
    """What one rank writes the others see; the size is exact, and the address of a page."""
    size = (3 << 20) + 5
    for creator in (0, 2):
        spec = RegionSpec(
            size, directory="/dev/shm" if kind == "file" else None, created_by=creator
        )
        region = REGIONS.get(kind).open(GROUP, spec)
        assert len(region.memory) == size
        assert region.address % 4096 == 0
        for writer in range(GROUP.size):
            if GROUP.rank == writer:
                region.memory[:] = bytes([writer + 1]) * size
            GROUP.barrier()
            assert bytes(region.memory) == bytes([writer + 1]) * size
            GROUP.barrier()
        region.close()
        region.close()


def main() -> None:
    kinds = sys.argv[1:] or [name.partition("/")[2] for name in CHANNELS.names() if "/mpi_" in name]
    for kind in kinds:
        check_channel(kind)
        if GROUP.rank == 0:
            print("channel", kind, flush=True)
    for kind in MPI_REGIONS:
        check_region(kind)
        if GROUP.rank == 0:
            print("region", kind, flush=True)


if __name__ == "__main__":
    main()
