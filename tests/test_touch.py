"""A short read maps its pages by a touch that waits without the GIL and traps where it must."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mapped import mapped_pages
from needs import need

from shmbench import policy
from shmbench.measure.eviction import evict, read_in
from shmbench.native.filemap import FileMap
from shmbench.native.gate import READY, SHRUNK, Gate
from shmbench.native.memory import PAGE_BYTES as PAGE

PAGES = 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """On a disk: what is known to be in memory as a whole is not touched."""
    path = tmp_path / "data"
    path.write_bytes(np.random.default_rng(1).bytes(PAGES * PAGE))
    return path


def make_warm(path: Path) -> None:
    with open(path) as file:
        read_in(file.fileno(), PAGES * PAGE)


def make_cold(path: Path) -> None:
    with open(path) as file:
        proven = evict(file.fileno(), PAGES * PAGE).proven
    need(proven, "the file can't be evicted", "have temporary files on a disk")


def test_a_read_maps_what_is_in_the_page_cache(path: Path) -> None:
    make_warm(path)
    with policy.open(path) as mapping:
        assert not mapped_pages(mapping.address + 512 * PAGE, PAGE)
        for page in (512, 16, 1000):
            read = mapping.read(page * PAGE + 100, PAGE)
            assert mapped_pages(mapping.address + page * PAGE, 2 * PAGE).all()
            assert read == path.read_bytes()[page * PAGE + 100 :][:PAGE]
        assert mapping.stats().misses == 0


def test_a_read_that_waits_for_the_disk_is_a_miss_and_lets_other_threads_run(path: Path) -> None:
    make_cold(path)
    counted = [0]
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(0.05)  # who keeps the GIL for less than that hinders the other thread
    thread = threading.Thread(target=count)
    thread.start()
    try:
        with policy.open(path) as mapping:
            seen = counted[0]
            content = bytes(mapping.read(PAGES // 2 * PAGE, 8))
            assert counted[0] > seen
            assert mapping.stats().misses == 1
            assert mapping.stats().bytes_asked["read"] == PAGE
    finally:
        sys.setswitchinterval(before)
        stop.set()
        thread.join()
    assert content == path.read_bytes()[PAGES // 2 * PAGE :][:8]


def test_pages_that_are_gone_are_an_answer_even_where_the_length_says_otherwise(
    path: Path, tmp_path: Path
) -> None:
    longer = tmp_path / "longer"
    longer.write_bytes(bytes(PAGES * PAGE))
    mapped = FileMap(str(path), False)
    mapped.map()
    with open(longer) as file:
        gate = Gate(mapped.address, PAGES * PAGE, fd=file.fileno(), memory=mapped.view())
        assert gate.enter(PAGE, 8) == READY
        os.truncate(path, 2 * PAGE)
        assert gate.enter(PAGE, 8) == READY
        for _ in range(3):
            assert gate.enter(900 * PAGE, 8) == SHRUNK
            assert gate.error
        gate.retire()
    mapped.close()


@pytest.mark.parametrize("hint", ["auto", "map_ahead"])
def test_every_thread_may_read_while_another_closes(path: Path, hint: policy.Policy) -> None:
    make_warm(path)
    content = path.read_bytes()
    ends: list[str] = []
    for _ in range(30):
        mapping = policy.open(path, hint=hint)

        def read(mapping: policy.Mapping = mapping) -> None:
            try:
                while True:
                    for page in range(0, PAGES, 17):
                        at = page * PAGE
                        assert mapping.read(at, 8) == content[at : at + 8]
            except Exception as error:
                ends.append(str(error))

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        mapping.close()
        for thread in threads:
            thread.join()
    assert ends == ["the mapping is closed"] * 90


def test_without_the_signal_reads_look_at_the_page_cache(path: Path) -> None:
    """In a process of its own, where somebody else handles SIGBUS after us."""
    program = f"""
import os, signal
from shmbench import policy
with policy.open({str(path)!r}) as mapping:
    mapping.read(0, 8)
signal.signal(signal.SIGBUS, signal.SIG_DFL)
with policy.open({str(path)!r}) as mapping:
    assert len(mapping.read(40 * {PAGE}, 8)) == 8
    os.truncate({str(path)!r}, {PAGE})
    try:
        mapping.read(900 * {PAGE}, 8)
    except OSError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), signal.Signals(-done.returncode)
    assert f"file ends at {PAGE}" in done.stdout
