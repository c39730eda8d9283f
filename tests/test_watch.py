"""Transparent watching: its law fed with page numbers, and its thread over real mappings."""

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from needs import need
from own_threads import ended, threads, within

from shmbench.native import memory as kernel
from shmbench.native.detector import Ahead, Detector
from shmbench.native.watch import Thread
from shmbench.policy.watch import Watcher

PAGE = kernel.PAGE_BYTES
FILE_BYTES = 128 << 20


def pages_of(ahead: list[Ahead]) -> set[int]:
    return {
        one.first + step * one.step + page
        for one in ahead
        for step in range(one.steps)
        for page in range(one.pages)
    }


@pytest.mark.parametrize("step", [8, 65, 256, -8, -256, -1000])
def test_a_stride_is_recognised_after_three_equal_steps(step: int) -> None:
    law = Detector(100_000)
    touched = [50_000 + i * step for i in range(4)]
    assert [law.step([page]) for page in touched[:3]] == [[], [], []]
    assert law.step([touched[3]]) == [Ahead(touched[3] + step, step, 16, 1)]
    assert law.streams == [(touched[3], step)]


def test_a_stream_is_read_ahead_ever_farther_up_to_the_limit() -> None:
    law = Detector(10_000_000, most_ahead=100)
    for number in range(200):
        law.step([number * 64])
    told: set[int] = set()
    law = Detector(10_000_000, most_ahead=100)
    for number in range(200):
        new = pages_of(law.step([number * 64]))
        assert not told & new
        told |= new
        assert all(page <= (number + 100) * 64 for page in new)
    assert told == {number * 64 for number in range(4, max(told) // 64 + 1)}
    assert max(told) >= (199 + 75) * 64


def test_several_steps_in_one_poll_show_their_direction_in_the_next() -> None:
    law = Detector(100_000)
    assert law.step(range(40_000, 60_000, 100)) == []
    assert law.step([39_700, 39_800, 39_900]) == [Ahead(39_600, -100, 32, 1)]


@given(
    st.integers(8, 400),
    st.booleans(),
    st.integers(0, 60),
    st.lists(st.integers(1, 5), min_size=3, max_size=30),
)
def test_any_stride_is_read_ahead_however_polls_cut_it(
    step: int, down: bool, first: int, cuts: list[int]
) -> None:
    law = Detector(200_000)
    at, told, touched = first, set[int](), set[int]()
    for cut in [1, 1, 1, 1, *cuts]:
        pages = [at + i * step for i in range(cut)]
        at += cut * step
        if down:
            pages = [199_999 - page for page in reversed(pages)]
        touched |= set(pages)
        told |= pages_of(law.step(pages))
    next_page = 199_999 - at if down else at
    assert next_page in told
    assert law.read_ahead_off
    assert all(0 <= page < 200_000 for page in told)


def test_several_streams_are_followed_at_once() -> None:
    law = Detector(1_000_000)
    told: set[int] = set()
    for number in range(10):
        for start, step in ((0, 256), (500_003, 100), (999_000, -64)):
            told |= pages_of(law.step([start + number * step]))
    assert {10 * 256, 500_003 + 1000, 999_000 - 640} <= told


def test_units_of_several_pages_are_read_ahead_whole() -> None:
    law = Detector(100_000)
    told: set[int] = set()
    for number in range(6):
        for page in range(3):  # each in a poll of its own, as they come
            told |= pages_of(law.step([number * 256 + page]))
    assert {6 * 256, 6 * 256 + 1, 6 * 256 + 2} <= told


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("together", [1, 3, 16, 40])
def test_a_scan_is_left_to_the_kernel(step: int, together: int) -> None:
    law = Detector(100_000)
    assert law.read_ahead_off
    for number in range(0, 4000, together):
        pages = sorted(50_000 + step * (number + i) for i in range(together))
        assert law.step(pages) == []
    assert not law.read_ahead_off


def test_short_strides_are_left_to_the_kernel() -> None:
    law = Detector(100_000)
    assert all(law.step([page]) == [] for page in range(0, 400, 4))
    assert not law.read_ahead_off


def test_touches_without_a_pattern_turn_read_ahead_on_again() -> None:
    law = Detector(1_000_000, patience=12)
    squares = [number * number * 7 for number in range(100, 130)]
    assert all(law.step([page]) == [] for page in squares)
    assert not law.read_ahead_off


def test_windows_at_equal_steps_ask_for_another_look() -> None:
    law = Detector(1_000_000)
    law.rest()
    assert not law.read_ahead_off
    for number in range(4):  # fault-around maps the 16 pages around each touch
        assert law.step(range(number * 256, number * 256 + 16)) == []
    assert law.read_ahead_off
    told: set[int] = set()
    for number in range(20, 24):
        told |= pages_of(law.step([number * 256 + 5]))
    assert 24 * 256 + 5 in told


def test_looks_in_vain_become_rare() -> None:
    law = Detector(10_000_000, patience=3)
    looks = 0
    for number in range(6000):
        if law.read_ahead_off:
            law.step([8_000_000 + (number * 7919) ** 2 % 1_000_003])
        else:  # windows at equal steps: worth a look
            law.step(range(number * 64, number * 64 + 16))
            looks += law.read_ahead_off
    assert 1 <= looks <= 12


def test_a_stream_that_leaves_the_memory_ends() -> None:
    law = Detector(1000)
    for page in range(0, 1000, 100):
        law.step([page])
    assert law.streams == []


@given(st.lists(st.sets(st.integers(0, 4999), max_size=50), max_size=60))
def test_whatever_is_touched_nothing_outside_is_read_ahead(polls: list[set[int]]) -> None:
    law = Detector(5000)
    for poll in polls:
        told = law.step(sorted(poll))
        assert all(0 <= one.first < 5000 for one in told)
        assert all(0 <= one.first + (one.steps - 1) * one.step < 5000 for one in told)
        assert all(one.steps <= 512 and abs(one.step) >= 8 and one.pages < 8 for one in told)
        assert len(law.streams) <= 8


@pytest.mark.parametrize("pages", [[3, 3], [4, 2], [-1], [1000]])
def test_page_numbers_that_can_not_be_are_refused(pages: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        Detector(1000).step(pages)


class MappedFile:
    """A sparse file on a disk, mapped; cold."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = FILE_BYTES
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(self.fd, 0, self.size)
        os.fsync(self.fd)
        self.map = mmap.mmap(self.fd, self.size)
        self.address = kernel.address_of(self.map)
        for _ in range(100):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if not any(self.residency()):
                return
            time.sleep(0.02)
        need(False, f"{path} can't be evicted", "put TMPDIR on a disk")

    def residency(self) -> bytes:
        return kernel.mincore(self.address, self.size)

    def advice(self) -> str:
        inside = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                inside = int(line.split("-")[0], 16) == self.address
            elif inside and line.startswith("VmFlags:"):
                return "random" if "rr" in line.split() else "normal"
        return "unmapped"


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[MappedFile]:
    path = tmp_path / "file"
    yield MappedFile(path)
    path.unlink()


def touch_seen(watcher: Watcher, mapped: MappedFile, page: int) -> None:
    """Touch a page and wait until the watcher saw it, however busy the machine is."""
    before = watcher.stats().touched
    mapped.map[page * PAGE]
    assert within(10, lambda: watcher.stats().touched > before)


@pytest.mark.parametrize("step", [256, -256])
def test_a_stride_by_plain_indexing_is_read_ahead(cold: MappedFile, step: int) -> None:
    first = 7 if step > 0 else cold.size // PAGE - 9
    with Watcher(cold.address, cold.size) as watcher:
        for number in range(4):
            touch_seen(watcher, cold, first + number * step)
        assert within(10, lambda: watcher.stats().announced >= 16)
        ahead = [first + number * step for number in range(4, 16)]
        assert within(10, lambda: all(cold.residency()[page] & 1 for page in ahead))
        assert cold.advice() == "random"
        for number in range(4, 20):
            touch_seen(watcher, cold, first + number * step)
    stats = watcher.stats()
    assert stats.recognised == 1
    assert stats.explained >= 16
    assert stats.refused == 0
    assert cold.advice() == "normal"


def test_a_stride_is_seen_without_pagemap_scan_too(cold: MappedFile) -> None:
    thread = Thread(
        cold.address,
        cold.size,
        least_ns=50_000,
        most_ns=20_000_000,
        advice=kernel.MADV_NORMAL,
        least_step=8,
        most_ahead=512,
        patience=12,
    )
    thread.start(scan=False)
    for number in range(4):
        before = thread.stats().touched
        cold.map[number * 256 * PAGE]
        assert within(10, lambda before=before: thread.stats().touched > before)
    assert within(10, lambda: thread.stats().announced >= 16)
    thread.stop()


def test_a_scan_turns_read_ahead_on_and_keeps_it(cold: MappedFile) -> None:
    with Watcher(cold.address, cold.size) as watcher:
        assert within(10, lambda: cold.advice() == "random")
        for page in range(0, 4096):
            cold.map[page * PAGE]
        assert within(10, lambda: cold.advice() == "normal")
        assert watcher.stats().announced == 0


def test_read_ahead_is_on_again_after_a_while_of_nothing(cold: MappedFile) -> None:
    with Watcher(cold.address, cold.size, most_interval_s=1e-3):
        assert within(10, lambda: cold.advice() == "normal")


def test_nothing_is_polled_while_nothing_faults(cold: MappedFile) -> None:
    code = f"""
import mmap, os, sys, time
from shmbench.policy.watch import Watcher
from shmbench.native import memory
m = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), {FILE_BYTES})
with Watcher(memory.address_of(m), {FILE_BYTES}) as w:
    time.sleep(0.3)
    before = w.stats().polls
    time.sleep(0.3)
    print(w.stats().polls - before)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(cold.path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert int(found.stdout) <= 2


def test_pages_mapped_before_the_start_are_no_touches(cold: MappedFile) -> None:
    kernel.touch_read(cold.address, 1 << 20)
    with Watcher(cold.address, cold.size) as watcher:
        assert within(10, lambda: watcher.stats().scans > 0)
        cold.map[100 << 20]
        assert within(10, lambda: watcher.stats().touched > 0)
        assert watcher.stats().touched < 200


def test_a_mapping_that_goes_while_it_is_watched_breaks_nothing(cold: MappedFile) -> None:
    watcher = Watcher(cold.address, cold.size)
    watcher.start()
    for number in range(3):
        touch_seen(watcher, cold, number * 256)
    cold.map.close()
    time.sleep(0.05)
    watcher.stop()
    assert not watcher.running


def test_reading_ahead_of_unmapped_pages_is_counted(tmp_path: Path) -> None:
    mapped = MappedFile(tmp_path / "file")
    # The watcher believes that the mapping is longer than it is.
    with Watcher(mapped.address, mapped.size, most_ahead=64) as watcher:
        middle = mapped.size // 2
        mapped.map.resize(middle)
        for page in range(middle // PAGE - 5 * 256, middle // PAGE, 256):
            touch_seen(watcher, mapped, page)
        assert within(10, lambda: watcher.stats().refused > 0)
    assert watcher.stats().errno != 0


def test_it_can_be_started_again_after_a_stop(cold: MappedFile) -> None:
    watcher = Watcher(cold.address, cold.size)
    watcher.stop()
    for _ in range(3):
        watcher.start()
        with pytest.raises(RuntimeError):
            watcher.start()
        assert watcher.running
        watcher.stop()
        watcher.stop()
        assert not watcher.running


def test_a_watcher_that_is_dropped_ends_its_thread(cold: MappedFile) -> None:
    before = threads()
    watcher = Watcher(cold.address, cold.size)
    watcher.start()
    assert len(threads() - before) == 1
    del watcher
    assert ended(before)


def test_a_forked_child_has_no_watcher_and_can_stop_it(cold: MappedFile) -> None:
    with Watcher(cold.address, cold.size) as watcher:
        child = os.fork()
        if not child:
            fine = not watcher.running
            watcher.stop()
            watcher.start()
            fine = fine and watcher.running
            watcher.stop()
            os._exit(0 if fine else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert watcher.running


def test_the_interpreter_ends_while_a_watcher_runs(cold: MappedFile) -> None:
    code = f"""
import mmap, os, sys
from shmbench.policy.watch import Watcher
from shmbench.native import memory
m = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), {FILE_BYTES})
w = Watcher(memory.address_of(m), {FILE_BYTES})
w.start()
for at in range(0, {FILE_BYTES}, 1 << 20):
    m[at]
print("done")
"""
    found = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code, str(cold.path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, "done\n")
    assert "Fatal" not in found.stderr


@pytest.mark.parametrize(
    ("address", "length", "options"),
    [
        (1, PAGE, {}),
        (0, 0, {}),
        (0, PAGE, {"least_step": 0}),
        (0, PAGE, {"least_interval_s": 1.0, "most_interval_s": 0.1}),
    ],
)
def test_a_watcher_that_can_not_work_is_refused(
    address: int, length: int, options: dict[str, float]
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Watcher(address, length, **options)
