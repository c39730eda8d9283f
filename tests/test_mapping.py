"""Mapping: the same bytes as pread, errors instead of signals, no GIL while pages fault in."""

import errno
import mmap
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bar_harness import longest_stall
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from mapped import mapped_pages
from needs import need

from shmbench import policy
from shmbench.measure.eviction import evict, residency
from shmbench.native import memory

PAGE = memory.PAGE_BYTES
HINTS = [
    "auto",
    "none",
    "normal",
    "sequential",
    "random",
    "willneed",
    "populate",
    "map_ahead",
    "sequential_once",
    "reverse",
    "keep",
    policy.strided(3 * PAGE),
]


@pytest.fixture(autouse=True)
def _no_shared_cache_is_left():
    yield
    if policy.shared_cache.cache_info().currsize:
        policy.shared_cache().close()
        policy.shared_cache.cache_clear()


def write(path, size, seed=0):
    content = np.random.default_rng(seed).bytes(size)
    path.write_bytes(content)
    return content


@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_every_policy_gives_the_bytes_of_every_pattern(tmp_path, hint):
    path = tmp_path / "file"
    size = 3 * (1 << 20) + 17
    content = write(path, size)
    rng = np.random.default_rng(1)
    patterns = [
        range(0, size, 4096),
        range(size - 5000, 0, -4096),
        range(0, size, 40960),
        rng.integers(0, size, 300).tolist(),
    ]
    with policy.open(path, hint=hint) as mapping:
        for offsets in patterns:
            for offset in offsets:
                length = min(5000, size - offset)
                assert mapping.read(offset, length) == content[offset : offset + length]
        assert b"".join(mapping.blocks(100_000)) == content
        assert mapping.stats().accesses > 1000


class Life(RuleBasedStateMachine):
    """A file that grows, shrinks and is replaced while it is open, beside pread."""

    hint: policy.Policy
    directory: Path

    @initialize(pages=st.integers(0, 40), odd=st.integers(0, PAGE - 1))
    def begin(self, pages, odd):
        self.path = str(self.directory / "file")
        self.count = 0
        self.write(0, pages * PAGE + odd)
        self.mapping = policy.open(self.path, hint=self.hint)
        self.fd = os.open(self.path, os.O_RDWR)

    def write(self, start, size):
        self.count += 1
        with open(self.path, "r+b" if Path(self.path).exists() else "wb") as file:
            file.seek(start)
            file.write(np.random.default_rng(self.count).bytes(size))

    @rule(more=st.integers(1, 20 * PAGE))
    def grow(self, more):
        self.count += 1
        end = os.fstat(self.fd).st_size
        os.pwrite(self.fd, np.random.default_rng(self.count).bytes(more), end)

    @rule(part=st.floats(0, 1))
    def shrink(self, part):
        os.ftruncate(self.fd, int(os.fstat(self.fd).st_size * part))

    @rule()
    def replace(self):
        other = self.path + ".new"
        with open(other, "wb") as file:
            file.write(b"other")
        Path(other).replace(self.path)

    @rule(at=st.floats(0, 1.2), length=st.integers(0, 9 * PAGE))
    def read(self, at, length):
        size = os.fstat(self.fd).st_size
        offset = int(size * at)
        expected = os.pread(self.fd, length, offset)
        if len(expected) == length and offset <= size:
            assert self.mapping.read(offset, length) == expected
        elif length:
            with pytest.raises(OSError, match=r"the file ends at|mapping ends at") as caught:
                self.mapping.read(offset, length)
            assert caught.value.filename == self.path

    @rule(size=st.integers(1, 4 * PAGE))
    def scan(self, size):
        length = min(self.mapping.size, os.fstat(self.fd).st_size)
        found = b"".join(self.mapping.blocks(size, 0, length, size)) if length else b""
        expected = os.pread(self.fd, length, 0)
        assert found == expected

    def teardown(self):
        if hasattr(self, "mapping"):
            self.mapping.close()
            os.close(self.fd)
            Path(self.path).unlink()


@pytest.mark.parametrize("hint", ["auto", "none", "map_ahead", "random", "populate"])
def test_a_file_that_changes_while_it_is_open_reads_as_by_pread(tmp_path, hint):
    class Here(Life):
        pass

    Here.hint = hint
    Here.directory = tmp_path
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_file_that_shrinks_is_an_error_with_its_path_in_every_call(tmp_path):
    path = tmp_path / "file"
    write(path, 1 << 20)
    with policy.open(path) as mapping:
        blocks = mapping.blocks(PAGE)
        backwards = mapping.blocks(PAGE, step=-PAGE)
        next(blocks)
        next(backwards)
        items = mapping.follow(range(0, 1 << 20, PAGE), PAGE)
        os.truncate(path, 10)
        for call in (
            lambda: mapping.read(PAGE, 1),
            lambda: mapping.read(0, 11),
            lambda: next(blocks),
            lambda: next(backwards),
            lambda: list(items),
            lambda: mapping.populate(),
            lambda: mapping.ndarray(np.uint8, 11),
            lambda: mapping.advise("populate_read"),
        ):
            with pytest.raises(OSError, match=r"file") as caught:
                call()
            assert caught.value.errno == errno.EFAULT
            assert caught.value.filename == str(path)
        assert len(mapping.read(0, 10)) == 10


def test_a_full_file_system_is_an_error_with_the_path(tmp_path):
    need(os.geteuid() == 0, "mounting a small tmpfs needs root", "run as root")
    small = tmp_path / "small"
    small.mkdir()
    mounted = os.system(f"mount -t tmpfs -o size=1M none {small}") == 0
    need(mounted, "a tmpfs can't be mounted here", "run where mount(2) is allowed")
    try:
        path = small / "file"
        with pytest.raises(OSError, match="no room") as caught:
            policy.open(path, "w+", size=2 << 20)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
        with open(path, "wb") as file:
            file.truncate(2 << 20)
        with policy.open(path, "r+") as mapping:
            for call in (
                lambda: mapping.read(0, 2 << 20),
                lambda: mapping.populate(write=True),
                lambda: list(mapping.blocks(1 << 16)),
            ):
                with pytest.raises(OSError, match="full") as caught:
                    call()
                assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    finally:
        os.system(f"umount -l {small}")


@pytest.mark.parametrize("threads", [1, 3, 200])
def test_many_threads_populate_what_one_would(tmp_path, threads):
    path = tmp_path / "file"
    size = 9 << 20
    content = write(path, size)
    with policy.open(path, hint="none") as mapping:
        mapping.populate(3 * PAGE + 5, 7 << 20, threads=threads)
        assert mapped_pages(mapping.address, size)[3 : 4 + (7 << 20) // PAGE].all()
        assert mapping.read(0, size) == content
        for bad in (0, -1):
            with pytest.raises(ValueError, match="threads"):
                mapping.populate(threads=bad)
        os.truncate(path, 5 << 20)
        with pytest.raises(OSError, match="the file ends at") as caught:
            mapping.populate(threads=threads)
        assert (caught.value.errno, caught.value.filename) == (errno.EFAULT, str(path))
    memory_of_ours = np.zeros(8 << 20, np.uint8)
    with policy.attach(memory_of_ours, hint="none") as attached:
        attached.populate(write=True, threads=threads)
    assert not memory_of_ours.any()


def test_reads_beyond_a_mapping_follow_a_file_that_grew(tmp_path):
    path = tmp_path / "file"
    content = write(path, 5000)
    with policy.open(path) as mapping:
        early = mapping.read(0, 5000)
        more = np.random.default_rng(9).bytes(1 << 20)
        with open(path, "ab") as file:
            file.write(more)
        assert mapping.read(5000, 1 << 20) == more
        assert mapping.size == 5000 + (1 << 20)
        assert mapping.stats().accesses == 2
        assert early == content
        assert mapping.ndarray(np.uint8).tobytes() == content + more


def test_an_empty_file_can_be_opened_and_grow(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with policy.open(path) as mapping:
        assert list(mapping.blocks(10)) == []
        assert mapping.read(0, 0) == b""
        with pytest.raises(OSError, match="ends at 0"):
            mapping.read(0, 1)
        path.write_bytes(b"abc")
        assert mapping.read(0, 3) == b"abc"


def test_blocks_go_backwards_and_in_steps(tmp_path):
    path = tmp_path / "file"
    content = write(path, 100_001)
    with policy.open(path) as mapping:
        found = [bytes(block) for block in mapping.blocks(1000, step=-1000)]
        assert b"".join(reversed(found)) == content
        assert [bytes(b) for b in mapping.blocks(10, 5, 50_000, 777)] == [
            content[o : o + 10] for o in range(5, 50_000, 777)
        ]
        for bad in (lambda: mapping.blocks(0), lambda: mapping.blocks(1, -5)):
            with pytest.raises(ValueError, match=r"blocks of 0|offset -5"):
                next(bad())


def test_modes_do_what_their_names_say(tmp_path):
    path = tmp_path / "file"
    with policy.open(path, "w+", size=10_000) as mapping:
        mapping.read(0, 5)[:] = b"hello"
        mapping.flush()
    assert path.read_bytes() == b"hello" + bytes(9_995)
    with policy.open(path, "c") as mapping:
        mapping.ndarray(np.uint8)[:5] = 0
        assert mapping.read(0, 5) == bytes(5)
    with policy.open(path, "r+") as mapping:
        assert mapping.read(0, 5) == b"hello"
        mapping.ndarray(np.uint8)[0] = ord("H")
        mapping.populate(write=True)
    with policy.open(path) as mapping:
        assert mapping.read(0, 5) == b"Hello"
        assert mapping.read(0, 5).readonly
        assert not mapping.ndarray(np.uint8).flags.writeable


@pytest.mark.parametrize(("mode", "size"), [("w", None), ("w+", None), ("r", 5), ("x", None)])
def test_modes_that_make_no_sense_are_refused(tmp_path, mode, size):
    with pytest.raises(ValueError, match="mode"):
        policy.open(tmp_path / "file", mode, size=size)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for mode in ("r", "r+", "c"):
        with pytest.raises(FileNotFoundError) as caught:
            policy.open(tmp_path / "none", mode)
        assert caught.value.filename == str(tmp_path / "none")


def test_views_outlive_a_close_and_calls_after_it_are_refused(tmp_path):
    path = tmp_path / "file"
    content = write(path, 100_000)
    mapping = policy.open(path)
    view, array = mapping.read(10, 1000), mapping.ndarray(np.uint8)
    mapping.close()
    mapping.close()
    assert view == content[10:1010]
    assert array.tobytes() == content
    for call in (
        lambda: mapping.read(0, 1),
        lambda: mapping.ndarray(np.uint8, 1),
        lambda: mapping.advise("normal"),
        lambda: mapping.flush(),
        lambda: mapping.follow([0], 1),
        lambda: next(mapping.blocks(1, 0, 5)),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_a_closed_mapping_without_views_leaves_nothing_mapped(tmp_path):
    path = tmp_path / "file"
    write(path, 100_000)
    with policy.open(path) as mapping:
        for block in mapping.blocks(4096):
            del block
        assert str(path) in Path("/proc/self/maps").read_text()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_mapping_can_be_parked_in_a_cache(tmp_path):
    path = tmp_path / "file"
    content = write(path, 100_000)
    cache = policy.MappingCache()
    for _ in range(3):
        with policy.open(path, cache=cache) as mapping:
            assert mapping.read(0, 100_000) == content
    stats = cache.stats()
    assert (stats.hits, stats.misses) == (2, 1)
    with policy.open(path, cache=cache) as mapping, open(path, "ab") as file:
        file.write(b"more")
        file.flush()
        assert mapping.read(100_000, 4) == b"more"
    cache.close()


@pytest.mark.parametrize("make", ["mmap", "memmap", "array", "part", "bytearray", "span"])
def test_what_is_mapped_already_can_be_attached(tmp_path, make):
    path = tmp_path / "file"
    content = write(path, 1 << 20)
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    array = np.memmap(path, np.uint16, "r")
    region = SimpleNamespace(memory=memoryview(mapped), address=memory.address_of(mapped))
    buffer, expected = {
        "mmap": (mapped, content),
        "memmap": (array.reshape(-1, 8), content),
        "array": (np.frombuffer(content, np.uint8), content),
        "part": (array[50:-50], content[100:-100]),
        "bytearray": (bytearray(content), content),
        "span": (region, content),
    }[make]
    with policy.attach(buffer) as mapping:
        assert b"".join(mapping.blocks(10_000)) == expected
        for offset in range(len(expected) - 5000, 0, -5000):
            assert mapping.read(offset, 5000) == expected[offset : offset + 5000]
        with pytest.raises(OSError, match="ends at"):
            mapping.read(0, len(expected) + (1 << 20))
        assert [bytes(v) for v in mapping.follow([7, 70_000, 3], 10)] == [
            expected[o : o + 10] for o in (7, 70_000, 3)
        ]
        if make in ("mmap", "memmap", "part", "span"):
            assert mapping.path == str(path)
            os.truncate(path, 1 << 19)
            with pytest.raises(OSError, match="the file ends at") as caught:
                mapping.read(len(expected) - 5000, 5000)
            assert caught.value.filename == str(path)


def test_what_is_no_contiguous_buffer_can_not_be_attached():
    with pytest.raises(TypeError, match="contiguous"):
        policy.attach(np.zeros((10, 10))[:, 0])


def test_a_memmap_is_numpys_own_with_a_mapping_behind_it(tmp_path):
    path = tmp_path / "file"
    array = policy.memmap(path, np.float64, "w+", 4096, (100, 10), "F", watch=False)
    theirs = np.memmap(path, np.float64, "r", 4096, (100, 10), "F")
    array[:] = np.arange(1000).reshape(100, 10)
    array.flush()
    assert isinstance(array, np.memmap)
    assert array.flags.f_contiguous
    np.testing.assert_array_equal(array, theirs)
    assert array.mapping.size == 8000
    assert array[3:5].mapping is array.mapping
    assert array.mapping.stats().accesses == 0
    assert float(np.sum(array)) == 499_500.0


def test_plain_indexing_of_a_watched_array_gives_its_bytes(tmp_path):
    path = tmp_path / "file"
    content = write(path, 1 << 20)
    with policy.open(path, watch=True) as mapping:
        array = mapping.ndarray(np.uint8)
        assert array[::PAGE].tobytes() == content[::PAGE]
        assert mapping.stats().watch is not None
    array = policy.memmap(path, mode="r")
    assert array[5::1000].tobytes() == content[5::1000]


def test_hints_reach_the_kernel_and_refusals_are_recorded(tmp_path):
    path = tmp_path / "file"
    write(path, 1 << 20)
    with policy.open(path) as mapping:
        assert mapping.advise("willneed", 0, 1 << 16) is None
        assert mapping.advise_many("cold", range(0, 1 << 20, 2 * PAGE), PAGE) == []
        refusal = mapping.advise("free", on_refusal="record")
        assert refusal is not None
        assert mapping.stats().refusals == [refusal]
        with pytest.raises(OSError, match="free"):
            mapping.advise("free")
        with pytest.raises(ValueError, match="bytes at offset"):
            mapping.advise("cold", 0, 2 << 20)


def test_hints_of_a_parked_mapping_are_undone_for_the_next_user(tmp_path):
    path = tmp_path / "file"
    write(path, 1 << 20)
    cache = policy.MappingCache()
    for hint in ("random", "sequential", "auto"):
        with policy.open(path, hint=hint, cache=cache) as mapping:
            mapping.advise_many("random", [0, 1 << 16], PAGE)
            address = mapping.address
    policy.open(path, cache=cache).close()
    lines = Path("/proc/self/smaps").read_text().split(f"{address:x}-")[1].splitlines()
    flags = next(line for line in lines if line.startswith("VmFlags"))
    assert " rr" not in flags
    assert " sr" not in flags
    cache.close()


def cold_file(tmp_path, size):
    path = tmp_path / "cold"
    content = write(path, size)
    fd = os.open(path, os.O_RDWR)
    evicted = evict(fd, size)
    os.close(fd)
    need(
        evicted.after == 0, f"{tmp_path} is not on a device", "run pytest with --basetemp on a disk"
    )
    return path, content


def flag_is_set(flag, address):
    """Of the mapping that begins there (proc_pid_smaps(5), VmFlags)."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.startswith(f"{address:x}-"):
            return flag in next(each for each in lines if each.startswith("VmFlags:")).split()
    raise AssertionError(f"nothing is mapped at {address:x}")


@pytest.fixture
def _small_is_large(monkeypatch):
    """What is done about large files only is done about those of 32 MiB, too."""
    monkeypatch.setattr("shmbench.policy.ahead.LARGE_BYTES", 32 << 20)


def test_random_reads_of_a_small_cold_file_are_left_to_the_kernel(tmp_path):
    size = 32 << 20
    path, content = cold_file(tmp_path, size)
    with policy.open(path) as mapping:
        for offset in (np.random.default_rng(3).integers(0, size // PAGE, 99) * PAGE).tolist():
            assert mapping.read(offset, PAGE) == content[offset : offset + PAGE]
        stats = mapping.stats()
    assert stats.read_ahead
    assert stats.bytes_asked["willneed"] == 0


@pytest.mark.usefixtures("_small_is_large")
def test_what_an_array_reads_has_read_ahead_whatever_was_read_before(tmp_path):
    size = 64 << 20
    path, content = cold_file(tmp_path, size)
    with policy.open(path) as mapping:
        assert mapping.read(40 << 20, 4096) == content[40 << 20 : (40 << 20) + 4096]
        assert not mapping.stats().read_ahead
        array = mapping.ndarray(np.uint8)
        assert mapping.stats().read_ahead
        assert not flag_is_set("rr", mapping.address)
        for offset in np.random.default_rng(1).integers(0, size - 8, 50).tolist():
            mapping.read(offset, 8)
        assert not flag_is_set("rr", mapping.address)
        assert array[-1] == content[-1]
        del array


@pytest.mark.usefixtures("_small_is_large")
def test_the_first_short_read_of_a_large_file_brings_in_no_more_than_itself(tmp_path):
    path, content = cold_file(tmp_path, 64 << 20)
    with policy.open(path) as mapping, open(path, "rb") as file:
        assert mapping.read(8 << 20, 4096) == content[8 << 20 : (8 << 20) + 4096]
        assert residency(file.fileno(), 64 << 20).pages <= 4
        for page in range(1, 40):
            at = (8 << 20) + page * PAGE
            assert mapping.read(at, PAGE) == content[at : at + PAGE]
        assert mapping.stats().read_ahead
        assert not flag_is_set("rr", mapping.address)
        assert residency(file.fileno(), 64 << 20).pages > 40
    held = np.memmap(path, np.uint8, "r")
    with policy.attach(held) as attached:
        attached.read(0, 8)
        assert flag_is_set("rr", attached.address)
    assert not flag_is_set("rr", held.ctypes.data)


@pytest.mark.usefixtures("_small_is_large")
def test_random_reads_of_a_cold_file_turn_read_ahead_off_and_a_stream_turns_it_on(tmp_path):
    size = 64 << 20
    path, content = cold_file(tmp_path, size)
    rng = np.random.default_rng(3)
    with policy.open(path) as mapping:
        for offset in (rng.integers(0, size // PAGE // 2, 40) * PAGE).tolist():
            assert mapping.read(offset, PAGE) == content[offset : offset + PAGE]
        assert not mapping.stats().read_ahead
        for offset in range(size // 2, size // 2 + 30 * PAGE, PAGE):
            mapping.read(offset, PAGE)
        assert mapping.stats().read_ahead


@pytest.mark.usefixtures("_small_is_large")
def test_the_first_read_of_a_large_cold_file_is_random_until_a_second_one_follows_it(tmp_path):
    path, _ = cold_file(tmp_path, 64 << 20)
    with policy.open(path) as mapping:
        for offset in (40 << 20, 8 << 20):
            mapping.read(offset, PAGE)
            assert not mapping.stats().read_ahead
            mapping.read(offset + PAGE, PAGE)
            assert mapping.stats().read_ahead


@pytest.mark.usefixtures("_small_is_large")
def test_random_reads_of_a_cold_file_that_go_on_for_long_ask_for_all_of_it(tmp_path):
    size = 32 << 20
    path, content = cold_file(tmp_path, size)
    order = (np.random.default_rng(4).permutation(size // PAGE) * PAGE).tolist()
    with policy.open(path) as mapping:
        for offset in order[:20]:
            mapping.read(offset, PAGE)
        assert mapping.stats().bytes_asked["willneed"] == 0
        for offset in order[20:]:
            assert mapping.read(offset, PAGE) == content[offset : offset + PAGE]
        stats = mapping.stats()
    assert stats.bytes_asked["willneed"] == size
    assert stats.misses < len(order) // 4


@pytest.mark.usefixtures("_small_is_large")
def test_more_than_memory_holds_is_never_asked_for_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("shmbench.policy.ahead.memory_to_spare", lambda: (32 << 20) - 1)
    size = 32 << 20
    path, _ = cold_file(tmp_path, size)
    order = (np.random.default_rng(4).permutation(size // PAGE)[:400] * PAGE).tolist()
    with policy.open(path) as mapping:
        for offset in order:
            mapping.read(offset, PAGE)
        assert mapping.stats().bytes_asked["willneed"] == 0


def test_strided_reads_of_a_cold_file_are_fetched_ahead(tmp_path):
    size = 64 << 20
    path, content = cold_file(tmp_path, size)
    with policy.open(path) as mapping:
        for offset in range(0, size, 64 * PAGE):
            assert mapping.read(offset, PAGE) == content[offset : offset + PAGE]
        stats = mapping.stats()
        assert stats.bytes_asked["willneed"] >= 100 * PAGE
        assert stats.misses < size // (64 * PAGE) // 2


def test_sequential_reads_of_a_cold_file_are_left_to_the_kernel(tmp_path):
    path, _ = cold_file(tmp_path, 16 << 20)
    with policy.open(path) as mapping:
        for _ in mapping.blocks(PAGE):
            pass
        stats = mapping.stats()
        assert stats.read_ahead
        assert stats.bytes_asked["willneed"] == stats.bytes_asked["populate"] == 0


def test_map_ahead_maps_before_the_reader_comes(tmp_path):
    path = tmp_path / "file"
    write(path, 16 << 20)
    with policy.open(path, hint="map_ahead") as mapping:
        for _ in mapping.blocks(1 << 16):
            pass
        stats = mapping.stats()
        assert stats.bytes_asked["populate"] >= 8 << 20


def test_what_a_sequential_once_reader_has_passed_may_go(tmp_path):
    path, _ = cold_file(tmp_path, 64 << 20)
    with policy.open(path, hint="sequential_once") as mapping:
        for _ in mapping.blocks(1 << 16):
            pass
        assert mapping.stats().bytes_asked["pageout"] > 16 << 20


def test_other_threads_run_while_pages_fault_in():
    size = 256 << 20
    free = os.statvfs("/dev/shm")
    need(free.f_bavail * free.f_frsize > 2 * size, "/dev/shm is too small", "remount it larger")
    path = Path(f"/dev/shm/shmbench-test-{os.getpid()}")
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        # With the GIL held, others would stand still all the while. The machine may be busy with
        # other things, so one of five will do; what is promised on a quiet one is among the bars.
        found = []
        for _ in range(5):
            with policy.open(path) as mapping:
                begin = time.perf_counter()
                stall = longest_stall(mapping.populate)
                found.append(stall / (time.perf_counter() - begin))
            if found[-1] <= 0.5:
                break
        assert min(found) <= 0.5
    finally:
        path.unlink()


def test_threads_may_share_a_mapping(tmp_path):
    path = tmp_path / "file"
    content = write(path, 4 << 20)
    failures = []

    def work(mapping, seed) -> None:
        rng = np.random.default_rng(seed)
        for offset in rng.integers(0, len(content) - 5000, 500).tolist():
            if mapping.read(offset, 5000) != content[offset : offset + 5000]:
                failures.append(offset)

    with policy.open(path) as mapping:
        threads = [threading.Thread(target=work, args=(mapping, i)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert mapping.stats().accesses == 2000
    assert failures == []


def test_a_forked_child_goes_on_reading(tmp_path):
    path = tmp_path / "file"
    content = write(path, 16 << 20)
    with policy.open(path, hint="map_ahead") as mapping:
        for _ in mapping.blocks(1 << 16, 0, 8 << 20):
            pass
        child = os.fork()
        if child == 0:
            same = b"".join(mapping.blocks(1 << 16)) == content
            mapping.close()
            os._exit(0 if same else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert mapping.read(8 << 20, 8 << 20) == content[8 << 20 :]
