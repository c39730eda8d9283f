"""The helper thread and the gate, over real mappings."""

import errno
import mmap
import os
import threading
import time
from pathlib import Path

import pytest

from shmbench.native import memory
from shmbench.native.gate import ASK, OUTSIDE, READY, SHRUNK, Gate
from shmbench.native.prefetch import (
    POPULATE_READ,
    QUEUE_LENGTH,
    TOUCH,
    WILLNEED,
    Prefetcher,
)

PAGE = memory.PAGE_BYTES
PAGES = 512


class Mapped:
    """A mapped file of PAGES pages."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(os.urandom(PAGES * PAGE))
        self.fd = os.open(path, os.O_RDWR)
        self.map = mmap.mmap(self.fd, 0, prot=mmap.PROT_READ)
        self.address = memory.address_of(self.map)

    def mapped_pages(self) -> int:
        found = memory.pagemap_scan(
            self.address, PAGES * PAGE, all_of=memory.PAGE_IS_PRESENT, returned=0
        )
        return sum(end - start for start, end, _ in found) // PAGE


@pytest.fixture
def mapped(tmp_path):
    made = Mapped(tmp_path / "file")
    yield made
    os.close(made.fd)


@pytest.mark.parametrize("action", [POPULATE_READ, TOUCH])
def test_what_was_submitted_is_mapped_after_a_drain(mapped, action):
    helper = Prefetcher()
    helper.submit(mapped.address, PAGES * PAGE, action)
    helper.drain()
    assert mapped.mapped_pages() == PAGES
    assert helper.counters().bytes == PAGES * PAGE
    helper.close()


def test_many_ranges_are_one_submission(mapped):
    helper = Prefetcher()
    helper.submit_many([(mapped.address + i * PAGE, PAGE) for i in range(0, PAGES, 2)], WILLNEED)
    helper.drain()
    assert helper.counters().calls == PAGES // 2
    helper.close()


@pytest.mark.parametrize("action", [POPULATE_READ, TOUCH])
def test_a_file_that_shrank_is_counted_and_no_signal(mapped, action):
    os.ftruncate(mapped.fd, 0)
    helper = Prefetcher()
    helper.submit(mapped.address, PAGES * PAGE, action)
    helper.drain()
    assert helper.counters().errors == {errno.EFAULT: 1}
    helper.close()


def test_an_address_that_is_not_mapped_is_counted_and_no_signal(mapped):
    address = mapped.address
    mapped.map.close()
    helper = Prefetcher()
    helper.submit(address, PAGE, POPULATE_READ)
    helper.submit(address, PAGE, TOUCH)
    helper.drain()
    assert sum(helper.counters().errors.values()) == 2
    helper.close()


def test_a_full_queue_drops_its_oldest_jobs(mapped):
    helper = Prefetcher()
    ranges = [(mapped.address, PAGE)] * (2 * QUEUE_LENGTH)
    helper.submit_many(ranges, WILLNEED)
    helper.drain()
    counters = helper.counters()
    assert counters.dropped >= QUEUE_LENGTH
    assert counters.calls + counters.dropped == 2 * QUEUE_LENGTH
    helper.close()


def test_cancel_forgets_what_is_queued():
    length = 512 << 20
    scratch = memory.Mapping(length, flags=memory.MAP_PRIVATE | memory.MAP_ANONYMOUS)
    helper = Prefetcher(piece_bytes=PAGE)
    helper.submit(scratch.address, length, POPULATE_READ)
    helper.submit(scratch.address, length, POPULATE_READ)
    helper.cancel()
    helper.drain()
    counters = helper.counters()
    assert helper.queued == 0
    assert counters.cancelled_bytes + counters.bytes == 2 * length
    assert counters.cancelled_bytes > length
    helper.close()
    scratch.close()


def test_a_closed_helper_refuses_and_closes_again(mapped):
    helper = Prefetcher()
    helper.submit(mapped.address, PAGE, WILLNEED)
    helper.close()
    helper.close()
    with pytest.raises(OSError, match="ESHUTDOWN"):
        helper.submit(mapped.address, PAGE, WILLNEED)


def test_a_helper_that_never_ran_closes():
    Prefetcher().close()


def test_after_a_fork_the_child_has_a_thread_of_its_own(mapped):
    helper = Prefetcher()
    helper.submit(mapped.address, PAGE, POPULATE_READ)
    helper.drain()
    child = os.fork()
    if child == 0:
        before = helper.counters().calls
        helper.submit(mapped.address, PAGE, POPULATE_READ)
        helper.drain()
        done = helper.counters().calls == before + 1
        helper.close()
        os._exit(0 if done else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    helper.submit(mapped.address, PAGE, POPULATE_READ)
    helper.drain()
    assert helper.counters().calls == 2
    helper.close()


def test_a_child_forked_while_the_helper_works_can_close_it(mapped):
    helper = Prefetcher(piece_bytes=PAGE)
    for _ in range(20):
        helper.submit(mapped.address, PAGES * PAGE, POPULATE_READ)
        child = os.fork()
        if child == 0:
            helper.close()
            os._exit(0)
        deadline = time.monotonic() + 20
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, 9)
                os.waitpid(child, 0)
                pytest.fail("the child hangs")
            time.sleep(0.001)
    helper.close()


def test_threads_may_share_a_helper(mapped):
    helper = Prefetcher()

    def work() -> None:
        for i in range(200):
            helper.submit(mapped.address + i * PAGE, PAGE, WILLNEED)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    helper.drain()
    counters = helper.counters()
    assert counters.calls + counters.dropped == 800
    helper.close()


def gate_of(mapped: Mapped) -> Gate:
    return Gate(mapped.address, PAGES * PAGE, fd=mapped.fd)


def test_a_gate_answers_outside_for_what_is_not_in_the_mapping(mapped):
    gate = gate_of(mapped)
    end = PAGES * PAGE
    for offset, length in [
        (-1, 1),
        (0, -1),
        (0, end + 1),
        (end, 1),
        (end + 1, 0),
        (1 << 62, 1 << 62),
    ]:
        assert gate.enter(offset, length) == OUTSIDE
    assert gate.enter(end, 0) == READY


def test_a_gate_tells_that_a_file_shrank_also_in_quiet_spans(mapped):
    gate = gate_of(mapped)
    gate.quiet(0, PAGES * PAGE, True)
    assert gate.enter(4 * PAGE, PAGE) == READY
    os.ftruncate(mapped.fd, 5 * PAGE - 1)
    assert gate.enter(4 * PAGE, PAGE) == SHRUNK
    assert gate.enter(4 * PAGE, PAGE - 1) == READY


def test_a_gate_brings_in_what_is_not_in_the_page_cache(mapped):
    os.fsync(mapped.fd)
    os.posix_fadvise(mapped.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    gate = gate_of(mapped)
    cold = not gate.there(0, PAGE)
    assert gate.enter(0, PAGE) == (ASK if cold else READY)
    assert gate.there(0, PAGE)


def test_a_gate_does_not_ask_about_quiet_spans_nor_while_it_dozes(mapped):
    gate = gate_of(mapped)
    for i in range(PAGES // 2):
        answer = gate.enter(i * PAGE, PAGE)
    assert answer == ASK  # a long contiguous run
    gate.quiet(0, 10 * PAGE)
    assert gate.enter(9 * PAGE, PAGE) == READY
    assert gate.enter(10 * PAGE, PAGE) == ASK
    gate.doze()
    assert gate.enter(20 * PAGE, PAGE) == READY


def test_a_gate_over_an_unaligned_buffer_stays_within_its_pages(mapped):
    gate = Gate(mapped.address + 100, 2 * PAGE, fd=mapped.fd, offset=100)
    assert gate.populate(0, 2 * PAGE) == READY
    assert gate.enter(2 * PAGE - 1, 1) == READY


def woken_at(gate: Gate, pages: range) -> list[int]:
    """The pages at which the gate asked, of these that are read in their order."""
    return [page for page in pages if gate.enter(page * PAGE, PAGE) == ASK]


def timed_gate(mapped: Mapped, slow_ns: float) -> Gate:
    gate = gate_of(mapped)
    gate.waking, gate.slow_ns = 8 * PAGE, slow_ns
    gate.doze()
    return gate


def test_a_dozing_gate_wakes_for_a_run_only_after_it_has_timed_a_part_of_it(mapped):
    gate = timed_gate(mapped, slow_ns=1e-3)
    assert woken_at(gate, range(PAGES))[0] == 17
    assert gate.run_ns > 0


def test_a_dozing_gate_sleeps_through_a_run_that_is_fast_enough(mapped):
    gate = timed_gate(mapped, slow_ns=1e12)
    assert woken_at(gate, range(PAGES)) == []


def test_a_dozing_gate_sleeps_where_too_little_is_left_of_the_file(mapped):
    gate = timed_gate(mapped, slow_ns=1e-3)
    gate.waking_left = PAGES * PAGE
    assert woken_at(gate, range(PAGES)) == []
    assert woken_at(gate, range(PAGES - 1, -1, -1)) == []


def test_a_run_that_breaks_off_is_timed_anew(mapped):
    gate = timed_gate(mapped, slow_ns=1e-3)
    assert woken_at(gate, range(12)) == []
    assert woken_at(gate, range(20, 32)) == []
