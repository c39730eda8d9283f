"""Watching by userfaultfd: its law fed with pages, and its thread behind real shared memory."""

import errno
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import need
from own_threads import ended, threads

from shmbench import policy
from shmbench.errors import Unavailable, UsageError
from shmbench.native import memory as kernel
from shmbench.native.detector import Ahead, FaultDetector
from shmbench.native.faults import FaultThread
from shmbench.native.watched import Watched
from shmbench.policy.watch import Watcher

PAGE = kernel.PAGE_BYTES
PAGES = 4096
SIZE = PAGES * PAGE


class Memory:
    """Pages that fault once, mapped by the law as the thread would."""

    def __init__(self, law: FaultDetector, pages: int) -> None:
        self.law = law
        self.mapped = bytearray(pages)
        self.faults: list[int] = []
        self.told: list[Ahead] = []

    def touch(self, pages: Iterable[int]) -> int:
        """Gives how many faults that took."""
        before = len(self.faults)
        for page in pages:
            if not self.mapped[page]:
                self.faults.append(page)
                self.mapped[page] = 1
                for ahead in self.law.fault(page):
                    self.told.append(ahead)
                    self.map(ahead)
        return len(self.faults) - before

    def map(self, ahead: Ahead) -> None:
        for step in range(ahead.steps):
            first = max(0, ahead.first + step * ahead.step)
            behind = min(len(self.mapped), ahead.first + step * ahead.step + ahead.pages)
            self.mapped[first:behind] = bytes([1]) * (behind - first)


@pytest.mark.parametrize("down", [False, True])
def test_a_run_is_mapped_by_windows_that_double_up_to_the_limit(down: bool) -> None:
    memory = Memory(FaultDetector(100_000, most_window=1024), 100_000)
    memory.touch(range(90_000, 50_000, -1) if down else range(10_000, 50_000))
    distances = [abs(b - a) for a, b in zip(memory.faults, memory.faults[1:], strict=False)]
    assert distances[:8] == [1, 17, 33, 65, 129, 257, 513, 1025]
    assert set(distances[8:]) == {1025}
    assert memory.law.windows == len(distances)


def test_runs_go_on_over_pages_that_are_left_out() -> None:
    memory = Memory(FaultDetector(100_000), 100_000)
    assert memory.touch(range(0, 50_000, 7)) < 70


def test_several_runs_among_random_faults_keep_their_windows() -> None:
    memory = Memory(FaultDetector(1_000_000), 1_000_000)
    for i in range(20_000):
        memory.touch([100_000 + i, 300_000 + i, 500_000 - i])
        if i % 40 == 0:
            memory.touch([600_000 + (i * 7919) % 400_000])
    of_runs = [page for page in memory.faults if page < 520_000]
    assert len(of_runs) < 3 * 30


@pytest.mark.parametrize("step", [8, 65, 256, -8, -256, -1000])
def test_a_stride_is_recognised_as_it_is_by_the_scanner(step: int) -> None:
    law = FaultDetector(1_000_000)
    touched = [500_000 + i * step for i in range(4)]
    assert [law.fault(page) for page in touched[:3]] == [[], [], []]
    assert law.fault(touched[3]) == [Ahead(touched[3] + step, step, 16, 1)]
    assert law.streams == [(touched[3], step)]
    # The next fault is behind what was mapped: all of that was passed.
    missed = touched[3] + 17 * step
    assert law.fault(missed) == [Ahead(missed + step, step, 32, 1)]
    assert law.streams == [(missed, step)]


@settings(deadline=None, max_examples=50)
@given(st.integers(8, 400), st.booleans(), st.integers(1, 3), st.integers(0, 60))
def test_any_stride_faults_seldom(step: int, down: bool, unit: int, first: int) -> None:
    memory = Memory(FaultDetector(50_000), 50_000)
    starts = range(first, 50_000 - unit, step)
    pages = [start + i for start in (reversed(starts) if down else starts) for i in range(unit)]
    # Each page of a unit is a stream of its own, or a run's window covers the unit.
    assert memory.touch(pages) <= 60 + len(pages) / 100


def test_faults_without_a_pattern_map_what_is_around_them() -> None:
    memory = Memory(FaultDetector(1_000_000, patience=12), 1_000_000)
    memory.touch(number * number * 7 for number in range(100, 140))
    last = memory.faults[-1]
    assert memory.told[-1] == Ahead(last - last % 16, 16, 1, 16)
    assert memory.touch([last - last % 16 + i for i in range(16)]) == 0


@given(st.lists(st.integers(0, 4999), max_size=100))
def test_whatever_faults_little_is_mapped_for_it(pages: list[int]) -> None:
    law = FaultDetector(5000, most_window=64)
    for page in pages:
        for told in law.fault(page):
            assert told.steps * told.pages <= 1024
            assert -1024 <= told.first <= 6024


@pytest.mark.parametrize("page", [-1, 1000])
def test_a_page_that_can_not_be_is_refused(page: int) -> None:
    with pytest.raises(ValueError, match="no page"):
        FaultDetector(1000).fault(page)


def content(pages: int = PAGES) -> np.ndarray:
    """Bytes of which no two pages are alike."""
    words = np.arange(pages * PAGE // 8, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return words.view(np.uint8)


class Shared:
    """A mapping of which all pages are in the page cache, and none is mapped."""

    def __init__(self, *, filled: bool = True) -> None:
        self.fd = os.memfd_create("test", os.MFD_CLOEXEC)
        os.truncate(self.fd, SIZE)
        if filled:
            os.pwrite(self.fd, content().data, 0)
        self.map = mmap.mmap(self.fd, SIZE)
        self.array = np.frombuffer(self.map, np.uint8)
        self.address = kernel.address_of(self.map)

    def first_words(self, pages: Iterable[int]) -> list[int]:
        words = self.array.view(np.uint64)
        return [int(words[page * PAGE // 8]) for page in pages]

    def close(self) -> None:
        del self.array
        self.map.close()
        os.close(self.fd)


@pytest.fixture
def shared() -> Iterator[Shared]:
    made = Shared()
    yield made
    if not made.map.closed:
        made.close()


@pytest.fixture(scope="module", autouse=True)
def _userfaultfd() -> None:
    made = Shared()
    try:
        with Watcher(made.address, SIZE, source="userfaultfd"):
            pass
    except Unavailable as why:
        need(False, why.message, why.remedy or "")
    finally:
        made.close()


PATTERNS = {
    "sequential": range(PAGES),
    "reverse": range(PAGES - 1, -1, -1),
    "every fifth": range(0, PAGES, 5),
    "stride": range(3, PAGES, 64),
    "stride down": range(PAGES - 2, 0, -65),
    "random": np.random.default_rng(1).permutation(PAGES)[:1000].tolist(),
    "two scans": [page for i in range(1000) for page in (i, 3000 + i)],
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("source", ["scan", "pagemap", "userfaultfd"])
def test_plain_indexing_gives_the_bytes_of_the_file(
    source: policy.WatchSource, pattern: str, shared: Shared
) -> None:
    with policy.open(f"/proc/self/fd/{shared.fd}", "r+", watch=source) as mapping:
        array = mapping.ndarray(np.uint8)
        for page in PATTERNS[pattern]:
            found = array[page * PAGE : page * PAGE + 8].tobytes()
            assert found == os.pread(shared.fd, 8, page * PAGE)


@pytest.mark.parametrize("pattern", [name for name in PATTERNS if name != "random"])
def test_what_has_a_pattern_faults_seldom(pattern: str, shared: Shared) -> None:
    pages = PATTERNS[pattern]
    words = content().view(np.uint64)
    with Watcher(shared.address, SIZE, source="userfaultfd") as watcher:
        found = shared.first_words(pages)
        # A reader that overtakes the thread is served as well, so there is no sharp bound.
        assert watcher.stats().faults < len(pages) / 2
    assert found == [int(words[page * PAGE // 8]) for page in pages]
    stats = watcher.stats()
    assert stats.continued == stats.faults + stats.announced >= len(pages) / 2
    assert stats.refused == 0
    if pattern.startswith("stride"):
        assert stats.recognised >= 1
        assert stats.explained > 30
    else:
        assert stats.windows > 5


def test_without_a_pattern_all_is_left_to_the_kernel_for_a_while(shared: Shared) -> None:
    with Watcher(shared.address, SIZE, source="userfaultfd") as watcher:
        rng = np.random.default_rng(3)
        deadline = time.monotonic() + 20
        while (faults := watcher.stats().faults) < 64 and time.monotonic() < deadline:
            shared.first_words(rng.permutation(PAGES)[:500].tolist())
            kernel.madvise(shared.address, SIZE, mmap.MADV_DONTNEED)
        seen = faults
        while seen == faults and time.monotonic() < deadline:  # until it looks again
            shared.first_words(rng.permutation(PAGES)[:10].tolist())
            kernel.madvise(shared.address, SIZE, mmap.MADV_DONTNEED)
            seen = watcher.stats().faults
        assert seen > faults >= 64


def test_pages_that_are_mapped_do_not_fault(shared: Shared) -> None:
    kernel.touch_read(shared.address, SIZE)
    with Watcher(shared.address, SIZE, source="userfaultfd") as watcher:
        shared.first_words(range(PAGES))
        assert watcher.stats().faults == 0


def test_writes_arrive_in_the_file(shared: Shared) -> None:
    with Watcher(shared.address, SIZE, source="userfaultfd"):
        shared.array[5::PAGE] = 77
    assert {os.pread(shared.fd, 1, page * PAGE + 5) for page in range(PAGES)} == {bytes([77])}


def test_holes_are_filled_by_the_kernel() -> None:
    made = Shared(filled=False)
    for page in range(0, PAGES, 3):
        os.pwrite(made.fd, b"x", page * PAGE)
    with Watcher(made.address, SIZE, source="userfaultfd") as watcher:
        for page in range(PAGES):
            assert made.array[page * PAGE] == (120 if page % 3 == 0 else 0)
            if page % 3 == 1:
                made.array[page * PAGE] = 7
        assert watcher.stats().refused > 0
    assert os.pread(made.fd, 1, PAGE) == bytes([7])
    made.close()


def test_pages_that_are_punched_out_while_they_are_touched_hang_nobody(shared: Shared) -> None:
    stop = threading.Event()

    def punch() -> None:
        # Behind the interpreter's back, and again and again: the pages go and come back as holes.
        while not stop.is_set():
            kernel.madvise(shared.address, SIZE, mmap.MADV_REMOVE)

    with Watcher(shared.address, SIZE, source="userfaultfd"):
        thread = threading.Thread(target=punch)
        thread.start()
        for _ in range(3):
            shared.array[::PAGE] = 1
            shared.first_words(range(0, PAGES, 2))
        stop.set()
        thread.join()


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    """Enough swap for the pages of one test: the machine's, or a file of the test's own."""
    if psutil.swap_memory().free >= 2 * SIZE:
        yield
        return
    file = tmp_path / "swap"
    file.touch(mode=0o600)
    with file.open("r+b") as opened:
        os.posix_fallocate(opened.fileno(), 0, 4 * SIZE)
    try:
        for command in ("mkswap", "swapon"):
            tool = shutil.which(command, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
            need(tool is not None, f"no {command}", "apt-get install util-linux mount")
            done = subprocess.run([tool, file], capture_output=True, text=True)
            why = f"no swap to put pages on: {done.stderr.strip()}"
            need(done.returncode == 0, why, "run the tests as root, or swapon(8) some")
        yield
        subprocess.run(["swapoff", file], check=True)
    finally:
        file.unlink()


@pytest.mark.usefixtures("swap")
def test_pages_that_are_swapped_out_come_back(shared: Shared) -> None:
    kernel.touch_read(shared.address, SIZE)
    swapped = psutil.swap_memory().sout
    kernel.madvise(shared.address, SIZE, kernel.MADV_PAGEOUT)
    assert psutil.swap_memory().sout - swapped >= SIZE // 2
    words = content().view(np.uint64)
    with Watcher(shared.address, SIZE, source="userfaultfd") as watcher:
        assert shared.first_words(range(PAGES)) == words[:: PAGE // 8].tolist()
        assert watcher.stats().faults > 0


@pytest.mark.parametrize("watch", [False, "userfaultfd"])
def test_a_mapping_reads_and_populates_as_ever(watch: policy.Watch) -> None:
    memory = mmap.mmap(-1, SIZE)
    memory.write(content().tobytes())
    kernel.madvise(kernel.address_of(memory), SIZE, mmap.MADV_DONTNEED)
    with policy.attach(memory, watch=watch) as mapping:
        assert mapping.read(PAGE, 3 * PAGE) == content()[PAGE : 4 * PAGE].tobytes()
        mapping.populate(10 * PAGE, 20 * PAGE)
        mapping.populate(write=True)
        assert b"".join(mapping.blocks(1 << 20)) == content().tobytes()


def thread_for(shared: Shared, *, user_mode_only: bool) -> FaultThread:
    thread = FaultThread(shared.address, SIZE)
    try:
        thread.start(user_mode_only=user_mode_only)
    except PermissionError:
        need(False, "faults within system calls are for the privileged", "run the tests as root")
    return thread


def test_a_system_call_waits_where_the_user_may_have_that(shared: Shared) -> None:
    thread = thread_for(shared, user_mode_only=False)
    other = os.memfd_create("other")
    assert os.pwrite(other, shared.array[: 100 * PAGE].data, 0) == 100 * PAGE
    assert os.pread(other, 100 * PAGE, 0) == content()[: 100 * PAGE].tobytes()
    assert thread.stats().faults > 0
    thread.stop()
    os.close(other)


def test_a_system_call_of_an_ordinary_user_fails_on_pages_that_are_not_mapped(
    shared: Shared,
) -> None:
    thread = thread_for(shared, user_mode_only=True)
    other = os.memfd_create("other")
    with pytest.raises(OSError, match="Bad address") as caught:
        os.pwrite(other, shared.array[4 * PAGE : 8 * PAGE].data, 0)
    assert caught.value.errno == errno.EFAULT
    assert shared.array[:PAGE][0] == 0  # mapped now
    assert os.pwrite(other, shared.array[:PAGE].data, 0) == PAGE
    assert thread.stats().faults == 1
    thread.stop()
    os.close(other)


def in_child(body: str) -> None:
    """Run in a fresh interpreter; it prints nothing, and fails by itself."""
    found = subprocess.run(
        [sys.executable, "-X", "dev", "-c", body],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_an_ordinary_user_may_watch_read_and_populate() -> None:
    privileged = Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() != "0"
    need(not privileged, "all users have all faults here", "sysctl vm.unprivileged_userfaultfd=0")
    in_child(f"""
import mmap, os
import numpy as np
from shmbench import policy
from shmbench.native import memory as kernel
memory = mmap.mmap(-1, {SIZE})
memory.write(bytes([7]) * {SIZE})
kernel.madvise(kernel.address_of(memory), {SIZE}, mmap.MADV_DONTNEED)
if os.getuid() == 0:
    os.setuid(65534)
with policy.attach(memory, watch="userfaultfd") as mapping:
    assert not mapping._watcher.system_calls_wait
    assert mapping.read(0, {PAGE}) == bytes([7]) * {PAGE}
    other = os.memfd_create("other")
    array = mapping.ndarray(np.uint8)
    try:
        os.write(other, array[{100 * PAGE} : {101 * PAGE}].data)
    except OSError:
        pass
    else:
        raise AssertionError
    mapping.populate()
    assert os.write(other, array.data) == {SIZE}
""")


def watched(mapping: policy.Mapping) -> Watched:
    found = mapping.stats().watch
    assert found is not None
    return found


def test_a_forked_child_has_an_ordinary_mapping_and_can_not_stop_its_parents(
    shared: Shared,
) -> None:
    with Watcher(shared.address, SIZE, source="userfaultfd") as watcher:
        shared.first_words([0])
        child = os.fork()
        if not child:
            words = content().view(np.uint64)[:: PAGE // 8].tolist()
            fine = not watcher.running and shared.first_words(range(PAGES)) == words
            watcher.stop()
            watcher.start()
            fine = fine and watcher.running
            watcher.stop()
            os._exit(0 if fine else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        before = watcher.stats().faults
        shared.first_words([PAGES // 2])
        deadline = time.monotonic() + 5  # the handler counts after it has mapped
        while watcher.stats().faults == before and time.monotonic() < deadline:
            time.sleep(0.001)
        assert watcher.stats().faults == before + 1


def test_a_stop_frees_who_waits_even_while_a_child_has_the_descriptor(shared: Shared) -> None:
    watcher = Watcher(shared.address, SIZE, source="userfaultfd")
    watcher.start()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    watcher.stop()
    shared.first_words(range(PAGES))
    os.close(write)
    os.close(read)
    os.waitpid(child, 0)


def test_a_stop_while_other_threads_fault_hangs_nobody(shared: Shared) -> None:
    done = threading.Event()
    rng = np.random.default_rng(2)

    def touch(pages: list[int]) -> None:
        while not done.is_set():
            shared.first_words(pages)
            kernel.madvise(shared.address, SIZE, mmap.MADV_DONTNEED)

    busy = [
        threading.Thread(target=touch, args=(rng.permutation(PAGES)[:300].tolist(),))
        for _ in range(3)
    ]
    for thread in busy:
        thread.start()
    for _ in range(20):
        with Watcher(shared.address, SIZE, source="userfaultfd"):
            time.sleep(0.005)
    done.set()
    for thread in busy:
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_an_idle_watcher_takes_no_time_and_ends_with_its_mapping(shared: Shared) -> None:
    before = threads()
    with policy.open(f"/proc/self/fd/{shared.fd}", "r+", watch="userfaultfd") as mapping:
        mapping.ndarray(np.uint8)[:: 64 * PAGE].sum()
        (task,) = threads() - before
        time.sleep(0.1)
        used = (task / "schedstat").read_text()
        polls = watched(mapping).polls
        time.sleep(0.3)
        assert (task / "schedstat").read_text() == used
        assert watched(mapping).polls == polls
    assert ended(before)


def test_a_mapping_that_has_grown_is_watched_anew(shared: Shared) -> None:
    with policy.open(f"/proc/self/fd/{shared.fd}", "r+", watch="userfaultfd") as mapping:
        os.pwrite(shared.fd, content().data, SIZE)
        mapping.read(SIZE, PAGE)
        array = mapping.ndarray(np.uint8)
        assert len(array) == 2 * SIZE
        array[:: 16 * PAGE].sum()
        assert watched(mapping).faults > 0


def test_a_mapping_that_goes_while_it_is_watched_breaks_nothing(shared: Shared) -> None:
    watcher = Watcher(shared.address, SIZE, source="userfaultfd")
    watcher.start()
    shared.first_words(range(0, 1000, 100))
    shared.close()
    watcher.stop()
    assert not watcher.running


def test_it_can_be_started_again_and_ends_when_it_is_dropped(shared: Shared) -> None:
    before = threads()
    watcher = Watcher(shared.address, SIZE, source="userfaultfd")
    watcher.stop()
    for page in range(3):
        watcher.start()
        with pytest.raises(RuntimeError):
            watcher.start()
        shared.first_words([page])
        watcher.stop()
        watcher.stop()
        assert not watcher.running
    watcher.start()
    assert len(threads() - before) == 1
    del watcher
    assert ended(before)
    shared.first_words(range(PAGES))


def test_the_interpreter_ends_while_a_thread_is_served() -> None:
    in_child(f"""
import os, threading
import numpy as np
from shmbench import policy
fd = os.memfd_create("x")
os.write(fd, bytes({SIZE}))
mapping = policy.open(f"/proc/self/fd/{{fd}}", "r+", watch="userfaultfd")
array = mapping.ndarray(np.uint8)
threading.Thread(target=lambda: [int(array[i]) for i in range(0, {SIZE}, {PAGE})]).start()
""")


def test_a_private_copy_of_a_tmpfs_file_can_be_watched(shared: Shared) -> None:
    with policy.open(f"/proc/self/fd/{shared.fd}", "c", watch="userfaultfd") as mapping:
        array = mapping.ndarray(np.uint8)
        array[::PAGE] = 3
        assert set(array[::PAGE].tolist()) == {3}
        assert watched(mapping).faults > 0
    assert os.pread(shared.fd, SIZE, 0) == content().tobytes()


def test_memory_that_can_not_be_watched_is_refused_with_a_remedy(
    shared: Shared, tmp_path: Path
) -> None:
    own = f"/proc/self/fd/{shared.fd}"
    with pytest.raises(Unavailable, match=r"reading only; open it with mode"):
        policy.open(own, "r", watch="userfaultfd")
    with pytest.raises(Unavailable, match="no shared memory of small pages; use it for tmpfs"):
        policy.attach(np.zeros(SIZE, np.uint8), watch="userfaultfd")
    with (
        policy.open(own, "r+", watch="userfaultfd") as mapping,
        pytest.raises(Unavailable, match="another userfaultfd"),
    ):
        policy.attach(mapping.ndarray(np.uint8), watch="userfaultfd")
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    with pytest.raises(UsageError, match="use True, False, or one of: scan"):
        policy.open(path, watch="uffd")  # type: ignore[arg-type]
    if (
        subprocess.run(["stat", "-fc%T", path], capture_output=True, check=True).stdout
        != b"tmpfs\n"
    ):
        with pytest.raises(Unavailable, match="watch=True for other files"):
            policy.open(path, "r+", watch="userfaultfd")


@pytest.mark.parametrize(
    ("address", "length", "options"),
    [(1, PAGE, {}), (0, 0, {}), (0, PAGE, {"least_step": 0}), (0, PAGE, {"most_window": 15})],
)
def test_a_thread_that_can_not_work_is_refused(
    address: int, length: int, options: dict[str, int]
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        FaultThread(address, length, **options)
