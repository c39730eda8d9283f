"""A file that shrank is noticed by a load that traps; nobody else's signal is touched."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from mapped import mapped_pages
from needs import need

from shmbench import policy
from shmbench.measure.eviction import evict, residency
from shmbench.native.memory import PAGE_BYTES as PAGE

SIZE = 64 * PAGE + 100


@pytest.fixture(params=["disk", "memory"])
def path(request, tmp_path):
    here = tmp_path if request.param == "disk" else Path("/dev/shm")
    path = here / f"shmbench-test-{os.getpid()}"
    path.write_bytes(np.random.default_rng(1).bytes(SIZE))
    yield path
    path.unlink(missing_ok=True)


def lines_of(path) -> list[str]:
    """Where the file is mapped."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in maps if line.endswith(str(path))]


def read_often(mapping) -> None:
    for _ in range(3):
        for offset in range(0, SIZE - PAGE, PAGE):
            mapping.read(offset, PAGE)


@pytest.mark.parametrize("length", [0, 5, 40 * PAGE, 64 * PAGE - 1, 64 * PAGE, SIZE - 1])
def test_a_shrunken_file_is_noticed_by_the_next_read_wherever_it_ends(path, length):
    content = path.read_bytes()
    with policy.open(path) as mapping:
        read_often(mapping)
        assert len(lines_of(path)) == 1  # the wire has no mapping of its own
        os.truncate(path, length)
        for offset, count in [(0, PAGE), (39 * PAGE, PAGE), (63 * PAGE, PAGE), (64 * PAGE, 100)]:
            if offset + count <= length:
                assert mapping.read(offset, count) == content[offset : offset + count]
                continue
            with pytest.raises(OSError, match="file ends at") as caught:
                mapping.read(offset, count)
            assert (caught.value.errno, caught.value.filename) == (errno.EFAULT, str(path))
    assert lines_of(path) == []


def test_the_last_page_is_mapped_once_reads_have_paid_for_it(path):
    with policy.open(path) as mapping:
        mapping.read(0, 8)  # a fault maps its neighbours, too
        assert not mapped_pages(mapping.address, SIZE)[-1]
        for _ in range(8):
            mapping.read(0, 8)
        assert mapped_pages(mapping.address, SIZE)[-1]


def test_no_wire_is_waited_for(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(SIZE))
    with policy.open(path, hint="random") as mapping, open(path) as file:  # no read-ahead
        evicted = evict(file.fileno(), SIZE)
        need(evicted.proven, "the file can't be evicted", "have temporary files on a disk")
        for _ in range(2000):
            mapping.read(0, 8)
        assert residency(file.fileno(), SIZE).pages == 1


def test_a_file_that_shrank_and_grew_again_reads_as_it_is_now(path):
    with policy.open(path) as mapping:
        read_often(mapping)
        os.truncate(path, 10)
        os.truncate(path, SIZE)
        assert mapping.read(3 * PAGE, PAGE) == bytes(PAGE)
        os.truncate(path, 20)
        with pytest.raises(OSError, match="file ends at 20"):
            mapping.read(3 * PAGE, PAGE)


def test_a_shrunken_file_is_noticed_by_every_thread(path):
    found = []

    def look(mapping) -> None:
        with pytest.raises(OSError, match="file ends at"):
            mapping.read(PAGE, PAGE)
        found.append(1)

    mappings = [policy.open(path) for _ in range(4)]
    for mapping in mappings:
        read_often(mapping)
    os.truncate(path, 0)
    threads = [threading.Thread(target=look, args=(mapping,)) for mapping in mappings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for mapping in mappings:
        mapping.close()


def in_python(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    setup = f"""
import faulthandler, mmap, os, signal, sys, time
from pathlib import Path
from shmbench import policy
path = {str(path)!r}
def used():
    mapping = policy.open(path)
    for _ in range(100):
        mapping.read(0, 100)
    return mapping
def bus_error():
    with open(path) as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    os.truncate(path, 0)
    mapped[0]
def error_of(mapping):
    os.truncate(path, 5)
    try:
        mapping.read(0, 100)
    except OSError as error:
        print(error)
"""
    return subprocess.run(
        [sys.executable, "-c", setup + program], capture_output=True, text=True, timeout=60
    )


def test_a_bus_error_of_somebody_else_ends_the_process_as_ever(path):
    done = in_python("mapping = used(); bus_error()", path)
    assert done.returncode == -signal.SIGBUS


def test_a_bus_error_of_somebody_else_reaches_the_handler_that_was_there_before(path):
    done = in_python("faulthandler.enable(); mapping = used(); bus_error()", path)
    assert done.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in done.stderr


def test_a_signal_that_was_sent_is_not_taken_for_a_wire(path):
    done = in_python("mapping = used(); os.kill(os.getpid(), signal.SIGBUS); time.sleep(9)", path)
    assert done.returncode == -signal.SIGBUS
    program = "signal.signal(signal.SIGBUS, lambda *_: print('seen')); mapping = used();"
    done = in_python(program + "os.kill(os.getpid(), signal.SIGBUS); error_of(mapping)", path)
    assert "seen" in done.stdout
    assert "file ends at 5" in done.stdout


def test_a_later_handler_is_left_alone_and_reads_ask_the_kernel_again(path):
    program = """
mapping = used()
signal.signal(signal.SIGBUS, signal.SIG_DFL)
time.sleep(1.1)
mapping.read(0, 100)
error_of(mapping)
"""
    done = in_python(program, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "file ends at 5" in done.stdout


def test_a_forked_child_notices_too(path):
    program = """
mapping = used()
if os.fork() == 0:
    error_of(mapping)
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""
    done = in_python(program, path)
    assert "file ends at 5" in done.stdout, done
