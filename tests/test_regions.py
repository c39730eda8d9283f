"""The contract of regions, once, run for each registered kind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from forked import FORKED_REGIONS
from region_harness import (
    DEADLINE_S,
    SIZE,
    holdings,
    in_ranks,
    left_by,
    need_available,
    open_alone,
    reserved_huge_pages,
    spec_of,
)

from shmbench.errors import PeerFailed, Unavailable, UsageError
from shmbench.group.process import ProcessGroup, run_ranks
from shmbench.native.memory import address_of
from shmbench.regions import PAGES, REGIONS, Pages, Region, RegionSpec, numa


@pytest.fixture(scope="module")
def huge_pages() -> Iterator[None]:
    with reserved_huge_pages():
        yield


@pytest.fixture(params=FORKED_REGIONS)
def kind(request: pytest.FixtureRequest) -> type[Region]:
    """Each registered kind that this machine has."""
    found = REGIONS.get(request.param)
    if found.default_pages == "hugetlb":
        request.getfixturevalue("huge_pages")
    need_available(found, spec_of(found))
    return found


# The contract


def test_what_one_rank_writes_the_others_read(kind: type[Region]) -> None:
    pattern = np.random.default_rng(1).integers(0, 256, SIZE, dtype=np.uint8)

    def use(group: ProcessGroup, region: Region) -> bytes:
        if group.rank == 0:
            region.memory[:] = pattern
        group.barrier()
        same = np.array_equal(np.frombuffer(region.memory, np.uint8), pattern)
        group.barrier()
        if group.rank == 2:
            region.memory[SIZE - 1] = pattern[-1] ^ 0xFF
        group.barrier()
        return bytes([same, region.memory[SIZE - 1]])

    assert in_ranks(kind, 3, use) == [bytes([1, pattern[-1] ^ 0xFF])] * 3


def test_it_has_exactly_the_size_asked_for_and_is_zeroed(kind: type[Region]) -> None:
    def use(group: ProcessGroup, region: Region) -> bytes:
        array = np.frombuffer(region.memory, np.uint8)
        assert array.size == SIZE
        assert not array.any()
        assert not region.memory.readonly
        return b"fine"

    assert in_ranks(kind, 2, use) == [b"fine"] * 2


@pytest.mark.parametrize("size_bytes", [1, 8, 4096, 4097])
def test_small_sizes_are_exact_too(kind: type[Region], size_bytes: int) -> None:
    region = open_alone(kind, spec_of(kind, size_bytes=size_bytes))
    assert len(region.memory) == size_bytes
    region.close()


def test_the_address_is_that_of_the_first_byte(kind: type[Region]) -> None:
    region = open_alone(kind, spec_of(kind))
    assert region.address == address_of(region.memory)
    region.close()


def test_huge_pages_get_an_address_that_they_fit(kind: type[Region]) -> None:
    for pages in PAGES:
        spec = spec_of(kind, pages)
        if pages in ("thp", "hugetlb") and kind.probe(spec) is None:
            region = open_alone(kind, spec)
            assert region.address % (2 << 20) == 0
            region.close()


def test_close_may_be_called_again(kind: type[Region]) -> None:
    region = open_alone(kind, spec_of(kind))
    region.close()
    region.close()
    assert len(region.memory) == 0


def test_arrays_outlive_close(kind: type[Region]) -> None:
    before = holdings()[0]
    region = open_alone(kind, spec_of(kind))
    array = np.frombuffer(region.memory, np.uint8)[10:20]
    region.memory[12] = 99
    region.close()
    region.close()
    assert array[2] == 99
    del array, region
    assert holdings()[0] == before


def test_no_name_is_left_once_all_ranks_have_it(kind: type[Region]) -> None:
    def use(group: ProcessGroup, region: Region) -> bytes:
        pids = {int(pid) for pid in group.allgather(str(os.getpid()).encode())}
        return str(left_by(pids)).encode()

    assert in_ranks(kind, 2, use) == [b"[]"] * 2


def test_two_hundred_regions_leave_no_descriptor_and_no_mapping(kind: type[Region]) -> None:
    def cycle() -> None:
        open_alone(kind, spec_of(kind, size_bytes=100_000)).close()

    for _ in range(3):
        cycle()
    descriptors, mappings = holdings()
    for _ in range(200):
        cycle()
    after = holdings()
    assert after[0] == descriptors
    assert after[1] <= mappings + 3  # the allocator's own
    assert left_by({os.getpid()}) == []


def test_a_killed_rank_leaves_nothing(kind: type[Region]) -> None:
    read_end, write_end = os.pipe()

    def use(group: ProcessGroup, region: Region) -> bytes:
        os.write(write_end, f"{os.getpid()} ".encode())
        region.memory[:10] = bytes(10)
        group.barrier()
        if group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        group.barrier()
        return b""

    before = holdings()[0]
    with pytest.raises(PeerFailed, match="rank 1 was killed by SIGKILL"):
        in_ranks(kind, 3, use)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        pids = {int(pid) for pid in pipe.read().split()}
    assert len(pids) == 3
    assert left_by(pids) == []
    assert holdings()[0] == before - 2


@pytest.mark.parametrize("pages", PAGES)
def test_probe_and_open_agree(kind: type[Region], pages: Pages) -> None:
    spec = spec_of(kind, pages)
    missing = kind.probe(spec)
    if missing is None:
        open_alone(kind, spec).close()
        return
    with pytest.raises(Unavailable) as caught:
        open_alone(kind, spec)
    assert caught.value.message == missing.message
    assert missing.remedy


def test_too_large_a_region_is_unavailable_in_every_rank(kind: type[Region]) -> None:
    spec = spec_of(kind, size_bytes=1 << 45)
    missing = kind.probe(spec)
    assert missing is not None
    assert missing.remedy
    if kind.needs_fork:
        with pytest.raises(Unavailable):
            kind.inherit(spec)
        return

    def body(group: ProcessGroup) -> bytes:
        try:
            kind.open(group, spec)
        except Unavailable as error:
            return f"{error.remedy}".encode()
        return b"opened"

    answers = run_ranks(3, body, timeout_s=DEADLINE_S)
    assert len(set(answers)) == 1
    assert answers[0] != b"opened"
    assert left_by({os.getpid()}) == []


def test_interleaving_needs_more_than_one_node(kind: type[Region]) -> None:
    if len(numa.online_nodes()) > 1:
        spec = RegionSpec(SIZE, kind.default_pages, numa="interleave")
        open_alone(kind, spec).close()
        return
    for where in ("interleave", "bind:0"):
        missing = kind.probe(RegionSpec(SIZE, kind.default_pages, numa=where))
        assert missing is not None
        assert "one node only" in missing.message
        assert missing.remedy


@pytest.mark.parametrize("size_bytes", [0, -1])
def test_a_region_of_nothing_is_a_wrong_request(size_bytes: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        RegionSpec(size_bytes)


@pytest.mark.parametrize("where", ["", "bind", "bind:", "bind:x", "remote"])
def test_an_unknown_numa_placement_is_a_wrong_request(where: str) -> None:
    with pytest.raises(UsageError, match="choose local, interleave or bind:N"):
        RegionSpec(1, numa=where)
