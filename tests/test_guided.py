"""Guided prefetch: the law of the distance, the order, and following it over real files."""

import errno
import gc
import mmap
import os
import threading
import time
from collections.abc import Iterator
from itertools import count, islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import need

from shmbench.native import guided as native
from shmbench.native import memory as kernel
from shmbench.native.prefetch import WILLNEED, Prefetcher
from shmbench.policy.distance import Distance
from shmbench.policy.guided import Follower
from shmbench.policy.order import Order

PAGE = kernel.PAGE_BYTES
FILE_BYTES = 32 << 20


class MappedFile:
    """A file, mapped, that can be pushed out of the page cache."""

    def __init__(self, path: Path, size: int = FILE_BYTES) -> None:
        self.path = path
        data = np.arange(size // 8, dtype=np.uint64)
        path.write_bytes(data.tobytes())
        self.fd = os.open(path, os.O_RDWR)
        os.fsync(self.fd)
        self.size = size
        self.map = mmap.mmap(self.fd, size)
        self.memory = memoryview(self.map)
        self.address = kernel.address_of(self.memory)

    def resident(self) -> int:
        return sum(page & 1 for page in kernel.mincore(self.address, self.size))

    def evict(self) -> None:
        for _ in range(100):
            kernel.madvise(self.address, self.size, kernel.MADV_DONTNEED)
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if not self.resident():
                return
            time.sleep(0.02)
        need(False, f"{self.path} can't be evicted", "put TMPDIR on a disk")

    def follow(self, offsets, length=PAGE, **options) -> Follower:
        return Follower(self.memory, self.address, self.fd, offsets, length, **options)

    def read_ahead_is_off(self) -> bool:
        flags = []
        inside = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                inside = int(line.split("-")[0], 16) == self.address
            elif inside and line.startswith("VmFlags:"):
                flags = line.split()
        return "rr" in flags


@pytest.fixture(params=["disk", "tmpfs"])
def mapped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MappedFile]:
    directory = Path("/dev/shm") if request.param == "tmpfs" else tmp_path
    path = directory / f"shmbench-test-guided-{os.getpid()}"
    try:
        yield MappedFile(path)
    finally:
        path.unlink()


@pytest.fixture
def on_disk(tmp_path: Path) -> MappedFile:
    return MappedFile(tmp_path / "file")


def test_the_distance_doubles_while_the_consumer_is_late() -> None:
    law = Distance(first=16, least=16, most=100)
    assert [law.step(here=False, halfway=False) for _ in range(4)] == [32, 64, 100, 100]


def test_the_distance_doubles_up_to_where_asking_pays_though_nobody_is_late() -> None:
    law = Distance(first=16, least=64, most=1024)
    assert [law.step(here=True, halfway=True) for _ in range(3)] == [32, 64, 64]


def test_the_distance_shrinks_when_half_of_it_would_do_for_long() -> None:
    law = Distance(first=64, least=64, most=1024, patience=3)
    law.step(here=False, halfway=False)
    assert [law.step(here=True, halfway=True) for _ in range(9)] == [128] * 2 + [96] * 3 + [
        72,
        72,
        72,
        64,
    ]


def test_the_distance_stays_when_it_is_just_right() -> None:
    law = Distance(first=64, least=64, most=1024, patience=1)
    assert {law.step(here=True, halfway=False) for _ in range(50)} == {64}


@given(
    st.lists(st.tuples(st.booleans(), st.booleans())),
    st.integers(1, 50),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(1, 9),
)
def test_the_distance_keeps_its_limits(looks, first, more, most, patience) -> None:
    law = Distance(first=first, least=first + more, most=first + more + most, patience=patience)
    for here, halfway in looks:
        before = law.items
        after = law.step(here=here, halfway=halfway)
        assert first <= after <= law.most
        assert after >= min(before, law.least)
        assert here or after == min(2 * before, law.most)


@given(st.lists(st.integers(0, 900)), st.lists(st.integers(1, 40)))
def test_an_order_is_handed_out_as_it_was_given(offsets, drops) -> None:
    order = Order(iter(offsets), 100, 1000)
    got: list[tuple[int, int]] = []
    for drop in drops:
        known = order.known(drop)
        assert known == min(drop, len(offsets) - len(got))
        got += zip(order.starts[:known].tolist(), order.stops[:known].tolist(), strict=True)
        order.drop(known)
    assert got == [(offset, offset + 100) for offset in offsets[: len(got)]]


def test_an_item_outside_of_the_memory_is_named() -> None:
    with pytest.raises(ValueError, match="item 1, bytes 990 to 1090, is not within 1000 bytes"):
        Order([0, 990], 100, 1000).known(2)
    with pytest.raises(ValueError, match="item 0"):
        Order([-1], 1, 1000).known(1)


def test_lengths_may_differ_but_not_be_fewer() -> None:
    order = Order(np.array([0, 10], np.uint32), [5, 0], 1000)
    assert order.known(9) == 2
    assert order.stops.tolist() == [5, 10]
    with pytest.raises(ValueError, match="1 lengths, but more offsets"):
        Order([0, 10], [5], 1000).known(2)


def test_offsets_that_are_no_integers_are_refused() -> None:
    with pytest.raises(TypeError):
        Order(np.array([0.5]), 1, 1000)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_order_gives_the_bytes_of_pread_cold_or_warm(data: st.DataObject) -> None:
    mapped = _shared_file()
    items = data.draw(
        st.lists(
            st.integers(0, mapped.size).flatmap(
                lambda offset: st.tuples(
                    st.just(offset), st.integers(0, min(70_000, mapped.size - offset))
                )
            ),
            max_size=60,
        )
    )
    budget = data.draw(st.integers(1, 1 << 20))
    if data.draw(st.booleans()):
        mapped.evict()
    offsets, lengths = [o for o, _ in items], [n for _, n in items]
    views = mapped.follow(offsets, lengths, budget_bytes=budget)
    for (offset, length), view in zip(items, views, strict=True):
        assert view == os.pread(mapped.fd, length, offset)


_shared: list[MappedFile] = []


def _shared_file() -> MappedFile:
    if not _shared:
        path = Path(f"/var/tmp/shmbench-test-guided-{os.getpid()}")
        _shared.append(MappedFile(path, 4 << 20))
        path.unlink()
    return _shared[0]


def test_a_random_order_over_a_cold_file_is_announced_page_by_page(on_disk: MappedFile) -> None:
    on_disk.evict()
    order = np.random.default_rng(1).permutation(on_disk.size // PAGE)[:1000] * PAGE
    with on_disk.follow(order) as follower:
        first = [int.from_bytes(view[:8], "little") for view in follower]
    assert first == (order // 8).tolist()
    stats = follower.stats
    assert stats.items == 1000
    assert stats.announced > 700  # the first pages may be mapped before they are announced
    # No read-ahead around them: only what was asked for is in memory.
    assert on_disk.resident() <= 1000


def test_items_that_touch_are_announced_as_one_range(on_disk: MappedFile) -> None:
    on_disk.evict()
    follower = on_disk.follow(range((8 << 20) - 1024, -1, -1024), 1024)
    assert sum(len(view) for view in follower) == 8 << 20
    assert follower.stats.announced * 4 < (8 << 20) // PAGE
    assert on_disk.resident() == (8 << 20) // PAGE


def test_items_in_sequence_are_left_to_the_kernels_read_ahead(on_disk: MappedFile) -> None:
    on_disk.evict()
    follower = on_disk.follow(range(0, on_disk.size, PAGE))
    off = [on_disk.read_ahead_is_off() for i, _ in enumerate(follower) if i % 500 == 250]
    assert not any(off)
    assert follower.stats.announced == 0


def test_a_sequence_within_a_random_order_is_noticed_and_its_end_too(on_disk: MappedFile) -> None:
    on_disk.evict()
    pages = np.random.default_rng(3).permutation(on_disk.size // PAGE) * PAGE
    order = [*pages[:600], *range(0, 4 << 20, PAGE), *pages[600:1200]]
    first = [int.from_bytes(view[:8], "little") for view in on_disk.follow(order)]
    assert first == [offset // 8 for offset in order]


def test_a_long_range_is_announced_as_a_whole(on_disk: MappedFile) -> None:
    """One MADV_WILLNEED reads no more than the device's read-ahead, and does not say so."""
    on_disk.evict()
    helper = Prefetcher()
    helper.submit(on_disk.address, on_disk.size, WILLNEED)
    helper.drain()
    deadline = time.monotonic() + 10
    while on_disk.resident() < on_disk.size // PAGE and time.monotonic() < deadline:
        time.sleep(0.01)
    helper.close()
    assert on_disk.resident() == on_disk.size // PAGE


def test_a_file_in_memory_is_left_alone(mapped: MappedFile) -> None:
    kernel.touch_read(mapped.address, mapped.size)
    follower = mapped.follow(range(0, mapped.size, PAGE))
    assert sum(1 for _ in follower) == mapped.size // PAGE
    assert follower.stats.looks == 0
    assert follower.stats.announced == 0


def test_the_follower_goes_from_warm_to_cold_and_back(on_disk: MappedFile) -> None:
    on_disk.evict()
    half = on_disk.size // 2
    os.posix_fadvise(on_disk.fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(on_disk.fd, half, 0)
    warm = list(range(0, half, PAGE))
    cold = list(range(half, on_disk.size, 2 * PAGE))
    follower = on_disk.follow(warm + cold + warm)
    off = [on_disk.read_ahead_is_off() for i, _ in enumerate(follower) if i % 500 == 250]
    assert not off[0]
    assert any(off)
    assert not off[-1]
    assert follower.stats.announced >= len(cold) * 3 // 4


@pytest.mark.parametrize("end", ["exhausted", "closed", "dropped", "failed"])
def test_read_ahead_is_off_only_while_a_cold_order_is_followed(
    on_disk: MappedFile, end: str
) -> None:
    on_disk.evict()
    order = [0, 1 << 20, 5 << 20, 2 << 20]
    follower = on_disk.follow([*order, on_disk.size] if end == "failed" else order)
    if end == "failed":
        with pytest.raises(ValueError, match="item 4"):
            list(follower)
    else:
        next(follower)
        assert on_disk.read_ahead_is_off()
        if end == "exhausted":
            assert len(list(follower)) == 3
        elif end == "closed":
            follower.close()
            follower.close()
            assert list(follower) == []
        else:
            gc.disable()
            del follower
            gc.enable()
    assert not on_disk.read_ahead_is_off()


def test_read_ahead_stays_off_until_the_last_follower_is_done(on_disk: MappedFile) -> None:
    on_disk.evict()
    one, other = on_disk.follow([0, PAGE]), on_disk.follow([8 << 20, 9 << 20])
    next(one)
    next(other)
    one.close()
    assert on_disk.read_ahead_is_off()
    other.close()
    assert not on_disk.read_ahead_is_off()


def test_the_mapping_gets_the_advice_back_that_it_had(on_disk: MappedFile) -> None:
    on_disk.evict()
    list(on_disk.follow([0, 9 << 20], advice_afterwards=kernel.MADV_RANDOM))
    assert on_disk.read_ahead_is_off()


def test_no_more_is_announced_ahead_than_the_budget_holds(on_disk: MappedFile) -> None:
    on_disk.evict()
    order = np.random.default_rng(2).permutation(on_disk.size // PAGE)[:400] * PAGE
    follower = on_disk.follow(order, budget_bytes=20 * PAGE)
    for consumed, _ in enumerate(follower, 1):
        assert on_disk.resident() <= consumed + 20 + 20
    assert consumed == 400


def test_an_endless_order_is_followed(mapped: MappedFile) -> None:
    order = (number * 3 * PAGE % mapped.size for number in count())
    assert len(list(islice(mapped.follow(order), 3000))) == 3000


def test_an_empty_order_ends_at_once(mapped: MappedFile) -> None:
    assert list(mapped.follow([])) == []


def test_a_view_outlives_its_follower(mapped: MappedFile) -> None:
    view = next(mapped.follow([8], 8))
    gc.collect()
    assert view == (1).to_bytes(8, "little")
    assert view.nbytes == 8
    assert view.shape == (8,)
    assert view[2:4].tobytes() == b"\0\0"
    assert np.frombuffer(view, np.uint64)[0] == 1


@pytest.mark.parametrize("state", ["warm", "cold"])
def test_a_file_that_shrank_is_an_error_with_its_path(mapped: MappedFile, state: str) -> None:
    offsets = list(range(0, mapped.size, 7 * PAGE))
    if state == "warm":
        kernel.touch_read(mapped.address, mapped.size)
    os.truncate(mapped.path, 1 << 20)
    with pytest.raises(OSError, match="the file has shrunk to 1048576 bytes") as caught:
        for _ in mapped.follow(offsets):
            pass
    assert caught.value.errno == errno.EFAULT
    assert caught.value.filename == str(mapped.path)


def test_a_file_that_shrinks_under_way_is_an_error_with_its_path(on_disk: MappedFile) -> None:
    on_disk.evict()
    follower = on_disk.follow(range(0, on_disk.size, PAGE), most_items=16)
    next(follower)
    os.truncate(on_disk.path, 4 << 20)
    with pytest.raises(OSError, match=r"item \d+, bytes \d+ to \d+, is gone"):
        # The consumer must not touch what was handed out before: only its order is followed.
        for _ in follower:
            pass


def test_no_item_is_handed_out_that_a_warm_file_has_no_more(mapped: MappedFile) -> None:
    kernel.touch_read(mapped.address, mapped.size)
    offsets = range(0, mapped.size, PAGE)
    follower = mapped.follow(offsets)
    for _ in range(500):
        next(follower)
    os.truncate(mapped.path, 600 * PAGE)
    with pytest.raises(OSError, match=r"item 600, bytes \d+ to \d+, is gone"):
        bytes(map(itemgetter(0), follower))  # all that is handed out may be touched


def test_other_threads_run_while_a_cold_order_is_followed(on_disk: MappedFile) -> None:
    on_disk.evict()
    order = np.random.default_rng(3).permutation(on_disk.size // PAGE) * PAGE
    turns, done = [0], threading.Event()

    def turn() -> None:
        while not done.is_set():
            turns[0] += 1
            time.sleep(0)

    other = threading.Thread(target=turn)
    other.start()
    for _ in on_disk.follow(order):
        pass
    done.set()
    other.join()
    assert turns[0] > 100


def test_a_forked_child_goes_on_without_the_announcing_thread(on_disk: MappedFile) -> None:
    on_disk.evict()
    follower = on_disk.follow(range(0, on_disk.size, 4 * PAGE))
    next(follower)
    child = os.fork()
    if not child:
        rest = sum(1 for _ in follower)
        os._exit(0 if rest == on_disk.size // (4 * PAGE) - 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sum(1 for _ in follower) == on_disk.size // (4 * PAGE) - 1


def test_anonymous_memory_is_followed_too() -> None:
    anonymous = mmap.mmap(-1, 1 << 20)
    view = memoryview(anonymous)
    follower = Follower(view, kernel.address_of(view), None, range(0, 1 << 20, PAGE), PAGE)
    assert sum(part[0] for part in follower) == 0


def test_memory_need_not_begin_with_a_page(on_disk: MappedFile) -> None:
    on_disk.evict()
    part = on_disk.memory[808:]
    follower = Follower(part, on_disk.address + 808, on_disk.fd, [0, 9 << 20], 8, file_offset=808)
    got = [int.from_bytes(view, "little") for view in follower]
    assert got == [101, 101 + (9 << 17)]


def test_announcing_unmapped_addresses_is_counted_not_fatal() -> None:
    announcer = native.Announcer(look=False)
    hole = mmap.mmap(-1, 16 * PAGE)
    address = kernel.address_of(hole)
    hole.close()
    starts = np.array([0], np.int64)
    announcer.announce(address, starts, starts + PAGE, 0, 1, beside=False)
    announcer.close()
    assert announcer.told().errno == errno.ENOMEM
    assert native.populate(address, starts, starts + PAGE, 0, 1) == (0, errno.ENOMEM)


def test_native_loops_refuse_items_that_are_not_there() -> None:
    none = np.empty(0, np.int64)
    with pytest.raises(IndexError):
        native.Slices(memoryview(b""), none, none, 0, 1)
    with pytest.raises(IndexError):
        native.populate(0, none, none, 0, 1)
