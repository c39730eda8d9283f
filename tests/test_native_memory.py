"""Memory by address: each call does what its man page says, and says so when it can't."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from needs import need

from shmbench.native import memory
from shmbench.native.memory import PAGE_BYTES, Mapping

PAGES = 64
LENGTH = PAGES * PAGE_BYTES
PRIVATE = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    made = Mapping(LENGTH, flags=PRIVATE)
    # Huge pages, where they come unasked, would blur the counts of pages below.
    memory.madvise(made.address, LENGTH, memory.MADV_NOHUGEPAGE)
    yield made
    made.close()


def pages_with(mapping: Mapping, category: int) -> int:
    try:
        runs = memory.pagemap_scan(mapping.address, mapping.length, all_of=category)
    except OSError as error:
        need(error.errno != errno.ENOTTY, "no PAGEMAP_SCAN", "run on Linux 6.7 or later")
        raise
    return sum(end - start for start, end, _ in runs) // PAGE_BYTES


def mapped_at(address: int) -> bool:
    """Is there a mapping, readable or not?"""
    try:
        memory.mincore(address, PAGE_BYTES)
    except OSError as error:
        return error.errno != errno.ENOMEM
    return True


def test_the_address_of_a_buffer_is_that_of_its_first_byte() -> None:
    array = np.zeros(10, np.uint8)
    assert memory.address_of(array) == array.ctypes.data
    assert memory.address_of(memoryview(array)[3:]) == array.ctypes.data + 3
    read_only = bytes(5)
    assert memory.address_of(read_only) == memory.address_of(memoryview(read_only))


def test_a_buffer_with_gaps_has_no_address() -> None:
    with pytest.raises((BufferError, ValueError)):
        memory.address_of(np.zeros(10, np.uint8)[::2])


def test_a_mapping_is_zeroed_writable_and_as_long_as_asked(mapping: Mapping) -> None:
    view = mapping.view()
    assert view.nbytes == mapping.length == LENGTH
    assert not any(view)
    view[-1] = 7
    assert memory.address_of(view) == mapping.address
    assert memory.touch_read(mapping.address + LENGTH - 1, 1) == 7


@pytest.mark.parametrize("alignment", [PAGE_BYTES, 1 << 21, 1 << 24])
def test_a_mapping_is_aligned_as_asked(alignment: int) -> None:
    made = Mapping(3 * PAGE_BYTES, flags=PRIVATE, alignment=alignment)
    assert made.address % alignment == 0
    made.close()


@pytest.mark.parametrize(("length", "alignment"), [(0, 0), (PAGE_BYTES, 3 * PAGE_BYTES)])
def test_a_mapping_that_can_not_be_is_refused(length: int, alignment: int) -> None:
    with pytest.raises(ValueError, match="can't map"):
        Mapping(length, flags=PRIVATE, alignment=alignment)


def test_a_mapping_of_a_closed_descriptor_names_call_and_errno() -> None:
    with pytest.raises(OSError, match=r"mmap of \d+ bytes: .*\(EBADF\)") as caught:
        Mapping(PAGE_BYTES, flags=memory.MAP_SHARED, fd=999_999)
    assert caught.value.errno == errno.EBADF


def test_a_closed_mapping_is_gone_and_may_be_closed_again(mapping: Mapping) -> None:
    assert mapped_at(mapping.address)
    mapping.close()
    assert not mapped_at(mapping.address)
    mapping.close()
    with pytest.raises(ValueError, match="closed"):
        mapping.view()


def test_an_array_outlives_close_and_takes_the_mapping_with_it(mapping: Mapping) -> None:
    array = np.frombuffer(mapping.view(), np.uint8)
    mapping.close()
    array[0] = 9
    assert array[0] == 9
    del array
    assert not mapped_at(mapping.address)


def test_touch_read_adds_one_byte_of_each_stride(mapping: Mapping) -> None:
    view = mapping.view()
    view[0], view[PAGE_BYTES], view[2 * PAGE_BYTES], view[1] = 1, 10, 100, 50
    assert memory.touch_read(mapping.address, 3 * PAGE_BYTES, PAGE_BYTES) == 111
    assert memory.touch_read(mapping.address, 2, 1) == 51
    assert memory.touch_read(mapping.address, 0) == 0


def test_touch_read_of_never_written_memory_finds_the_page_of_zeros(mapping: Mapping) -> None:
    assert pages_with(mapping, memory.PAGE_IS_PRESENT) == 0
    memory.touch_read(mapping.address, LENGTH, PAGE_BYTES)
    assert pages_with(mapping, memory.PAGE_IS_PFNZERO) == PAGES


def test_touch_write_makes_real_pages_and_changes_nothing(mapping: Mapping) -> None:
    mapping.view()[5 * PAGE_BYTES] = 200
    memory.touch_write(mapping.address, LENGTH, PAGE_BYTES)
    assert pages_with(mapping, memory.PAGE_IS_PRESENT) == PAGES
    assert pages_with(mapping, memory.PAGE_IS_PFNZERO) == 0
    assert sum(mapping.view()) == 200


def test_a_stride_of_zero_is_refused(mapping: Mapping) -> None:
    for touch in (memory.touch_read, memory.touch_write):
        with pytest.raises(ValueError, match="stride"):
            touch(mapping.address, LENGTH, 0)


def test_fill_sets_every_byte_of_the_range_only(mapping: Mapping) -> None:
    memory.fill(mapping.address + 10, 20, 0xAB)
    assert bytes(mapping.view()[:40]) == bytes(10) + b"\xab" * 20 + bytes(10)


def test_other_threads_run_while_pages_are_touched() -> None:
    made = Mapping(64 << 20, flags=PRIVATE)
    go, ran = threading.Event(), threading.Event()

    def answer() -> None:
        go.wait()
        ran.set()

    thread = threading.Thread(target=answer)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # from here on the interpreter takes the GIL from nobody
    try:
        go.set()
        for _ in range(50):
            memory.touch_write(made.address, made.length, 64)
            if ran.is_set():
                break
        ran_during_touch = ran.is_set()
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    made.close()
    assert ran_during_touch


def test_madvise_dontneed_drops_the_content(mapping: Mapping) -> None:
    mapping.view()[0] = 1
    memory.madvise(mapping.address, LENGTH, memory.MADV_DONTNEED)
    assert mapping.view()[0] == 0


def test_populate_write_maps_every_page(mapping: Mapping) -> None:
    try:
        memory.madvise(mapping.address, LENGTH, memory.MADV_POPULATE_WRITE)
    except OSError as error:
        need(error.errno != errno.EINVAL, "no MADV_POPULATE_WRITE", "run on Linux 5.14 or later")
        raise
    assert pages_with(mapping, memory.PAGE_IS_PRESENT) == PAGES


def test_an_unknown_advice_names_call_and_errno(mapping: Mapping) -> None:
    with pytest.raises(OSError, match=r"madvise\(99\): .*\(EINVAL\)") as caught:
        memory.madvise(mapping.address, LENGTH, 99)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("count", [0, 1, 1024, 1025, 2500])
def test_process_madvise_takes_any_number_of_ranges(count: int) -> None:
    made = Mapping(8192 * PAGE_BYTES, flags=PRIVATE)
    pidfd = os.pidfd_open(os.getpid())
    try:
        ranges = [(made.address + 2 * i * PAGE_BYTES, PAGE_BYTES) for i in range(count)]
        advised = memory.process_madvise(pidfd, ranges, memory.MADV_COLD)
        assert advised == count * PAGE_BYTES
    finally:
        os.close(pidfd)
        made.close()


def test_process_madvise_of_an_unmapped_range_is_an_error(mapping: Mapping) -> None:
    pidfd = os.pidfd_open(os.getpid())
    try:
        with pytest.raises(OSError, match=r"process_madvise\(20\): .*\(ENOMEM\)"):
            memory.process_madvise(
                pidfd, [(mapping.address, PAGE_BYTES), (PAGE_BYTES, PAGE_BYTES)], memory.MADV_COLD
            )
    finally:
        os.close(pidfd)


def test_mincore_has_a_byte_a_page(mapping: Mapping) -> None:
    memory.touch_write(mapping.address, 3 * PAGE_BYTES, PAGE_BYTES)
    seen = memory.mincore(mapping.address, 5 * PAGE_BYTES - 1)
    assert [byte & 1 for byte in seen] == [1, 1, 1, 0, 0]


def test_cachestat_counts_what_the_page_cache_holds() -> None:
    descriptor = os.memfd_create("cachestat")
    try:
        os.ftruncate(descriptor, 10 * PAGE_BYTES)
        os.pwrite(descriptor, bytes(3 * PAGE_BYTES), 2 * PAGE_BYTES)
        try:
            whole = memory.cachestat(descriptor)
        except OSError as error:
            need(error.errno != errno.ENOSYS, "no cachestat", "run on Linux 6.5 or later")
            raise
        assert whole.cached == 3
        assert memory.cachestat(descriptor, 0, 3 * PAGE_BYTES).cached == 1
    finally:
        os.close(descriptor)


def test_cachestat_of_a_closed_descriptor_names_call_and_errno() -> None:
    with pytest.raises(OSError, match=r"cachestat: .*\((EBADF|ENOSYS)\)"):
        memory.cachestat(999_999)


def test_a_scan_gives_runs_in_order_with_the_categories_asked_for(mapping: Mapping) -> None:
    pages_with(mapping, memory.PAGE_IS_PRESENT)  # skips where there is no such call
    memory.touch_write(mapping.address + 2 * PAGE_BYTES, 3 * PAGE_BYTES, PAGE_BYTES)
    memory.touch_write(mapping.address + 9 * PAGE_BYTES, PAGE_BYTES, PAGE_BYTES)
    present = memory.PAGE_IS_PRESENT
    runs = memory.pagemap_scan(mapping.address, LENGTH, any_of=present, returned=present)
    start = mapping.address
    assert runs == [
        (start + 2 * PAGE_BYTES, start + 5 * PAGE_BYTES, present),
        (start + 9 * PAGE_BYTES, start + 10 * PAGE_BYTES, present),
    ]
    absent = memory.pagemap_scan(start, LENGTH, all_of=present, inverted=present)
    assert sum(end - start for start, end, _ in absent) == (PAGES - 4) * PAGE_BYTES


def test_a_scan_goes_on_where_one_call_had_no_room() -> None:
    made = Mapping(2000 * PAGE_BYTES, flags=PRIVATE)
    memory.madvise(made.address, made.length, memory.MADV_NOHUGEPAGE)
    for page in range(0, 2000, 2):
        memory.touch_write(made.address + page * PAGE_BYTES, 1)
    assert pages_with(made, memory.PAGE_IS_PRESENT) == 1000
    made.close()


def test_a_scan_of_half_a_page_is_refused(mapping: Mapping) -> None:
    pages_with(mapping, memory.PAGE_IS_PRESENT)
    with pytest.raises(OSError, match=r"PAGEMAP_SCAN: .*\(EINVAL\)"):
        memory.pagemap_scan(mapping.address + 1, PAGE_BYTES)


def test_mbind_takes_a_node_that_is_there_and_refuses_others(mapping: Mapping) -> None:
    try:
        memory.mbind(mapping.address, LENGTH, memory.MPOL_BIND, [0])
    except OSError as error:
        refusals = (errno.ENOSYS, errno.EPERM)
        need(error.errno not in refusals, "no mbind here", "run outside the container")
        raise
    memory.touch_write(mapping.address, LENGTH, PAGE_BYTES)
    with pytest.raises(OSError, match=r"mbind\(2\): .*\(EINVAL\)"):
        memory.mbind(mapping.address, LENGTH, memory.MPOL_BIND, [1000])
    with pytest.raises(ValueError, match="node 1024"):
        memory.mbind(mapping.address, LENGTH, memory.MPOL_BIND, [1024])


def test_the_numbers_are_those_of_pythons_own_mmap() -> None:
    for name in ("MAP_SHARED", "MAP_PRIVATE", "MAP_ANONYMOUS", "MAP_POPULATE"):
        assert getattr(memory, name) == getattr(mmap, name)
    for name in ("RANDOM", "SEQUENTIAL", "WILLNEED", "DONTNEED", "REMOVE", "HUGEPAGE"):
        assert getattr(memory, f"MADV_{name}") == getattr(mmap, f"MADV_{name}")
    assert os.MFD_HUGE_2MB == memory.HUGE_2MB
    assert os.MFD_HUGE_1GB == memory.HUGE_1GB


def test_an_array_outlives_the_mapping_although_numpy_gave_the_view_back() -> None:
    mapping = memory.Mapping(1 << 16, flags=memory.MAP_PRIVATE | memory.MAP_ANONYMOUS)
    array = np.ndarray((1 << 16,), np.uint8, buffer=mapping.view())
    array[:] = 7
    mapping.close()
    assert int(array.sum()) == 7 << 16  # a crash, where the pages had gone
