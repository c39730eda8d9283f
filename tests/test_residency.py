"""What is in the page cache, by each way to ask."""

import os

import numpy as np
import pytest
from needs import need

from shmbench.native import memory
from shmbench.policy.backing import whole_file
from shmbench.policy.residency import Residency

PAGE = memory.PAGE_BYTES
PAGES = 64


@pytest.fixture
def cold(tmp_path):
    """A file on a file system with a device, evicted."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(PAGES * PAGE))
    backing = whole_file(str(path), True)
    os.fsync(backing.fd)
    os.posix_fadvise(backing.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    evicted = not any(byte & 1 for byte in memory.mincore(backing.address, PAGES * PAGE))
    need(evicted, f"{tmp_path} is not on a device", "run pytest with --basetemp on a disk")
    yield backing
    backing.close()


@pytest.mark.parametrize("by_fd", [True, False])
def test_an_evicted_file_is_cold_and_a_read_one_warm(cold, by_fd):
    residency = Residency(cold.address, PAGES * PAGE, cold.fd if by_fd else None)
    assert residency.sample() == "cold"
    assert residency.share(0, PAGES * PAGE) == 0
    memory.madvise(cold.address, PAGES * PAGE, memory.MADV_POPULATE_READ)
    assert residency.sample() == "warm"
    assert residency.share(0, PAGES * PAGE) == 1


def test_half_a_file_is_mixed(cold):
    memory.madvise(cold.address, PAGES * PAGE, memory.MADV_RANDOM)
    memory.madvise(cold.address, PAGES // 2 * PAGE, memory.MADV_POPULATE_READ)
    residency = Residency(cold.address, PAGES * PAGE, cold.fd)
    assert residency.sample() == "mixed"
    assert residency.sample(0, PAGES // 2 * PAGE) == "warm"
    assert residency.of_pages([(PAGES - 1) * PAGE]) == "cold"


def test_memory_without_a_file_is_seen_by_its_pages():
    array = np.zeros(PAGES * PAGE, np.uint8)
    address = -(-memory.address_of(array) // PAGE) * PAGE
    residency = Residency(address, (PAGES - 1) * PAGE, None)
    array[:] = 1
    assert residency.sample() == "warm"


def test_nothing_is_all_there(cold):
    assert Residency(cold.address, PAGES * PAGE, cold.fd).share(0, 0) == 1
