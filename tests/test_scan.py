"""The consumer: one checksum for all ways to read, another one for other bytes or another order."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmbench.native import memory, scan
from shmbench.native.scan import Consumer

SIZE = 1 << 20
ANONYMOUS = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS


@pytest.fixture(scope="module")
def content():
    mapping = memory.Mapping(SIZE, flags=ANONYMOUS)
    scan.fill_words(mapping.address, SIZE // 8, 0)
    yield mapping
    mapping.close()


@pytest.fixture(scope="module")
def descriptor(content):
    fd = os.memfd_create("test")
    os.write(fd, content.view())
    yield fd
    os.close(fd)


@given(
    offsets=st.lists(st.integers(0, SIZE - 10_000), min_size=1, max_size=20),
    length=st.integers(1, 10_000),
    step=st.sampled_from([0, 1, 64, 4096]),
    pieces=st.integers(0, 64),
)
def test_all_ways_to_read_the_same_bytes_give_one_checksum(
    content, descriptor, offsets, length, step, pieces
):
    array = np.asarray(offsets, np.int64)
    totals = set()
    consumer = Consumer(step)
    consumer.take_each(content.address, array, length)
    totals.add(consumer.total)
    consumer.reset()
    for offset in offsets:
        consumer.take(content.view()[offset : offset + length])
    totals.add(consumer.total)
    consumer.reset()
    consumer.take_file(descriptor, bytearray(length), array, min(pieces, length))
    totals.add(consumer.total)
    assert len(totals) == 1


def test_another_order_or_another_page_gives_another_checksum(content):
    def total(offsets):
        consumer = Consumer(4096)
        consumer.take_each(content.address, np.asarray(offsets, np.int64), 4096)
        return consumer.total

    assert total([0, 4096, 8192]) != total([4096, 0, 8192])
    assert total([0, 4096]) != total([0, 8192])


def test_no_filled_page_is_like_another_and_none_is_zero(content):
    pages = np.frombuffer(content.view(), np.uint64).reshape(-1, 512)
    assert len(np.unique(pages, axis=0)) == len(pages)
    assert pages.all()


def test_the_checksum_of_all_bytes_is_the_sum_of_words_and_of_the_bytes_behind_them(content):
    consumer = Consumer(0)
    consumer.take(content.view()[:19])
    words = np.frombuffer(content.view(), np.uint64, 2)
    rest = content.view()[16:19]
    assert consumer.total == (int(words.sum(dtype=np.uint64)) + sum(rest)) % 2**64


def test_reading_beyond_the_end_of_a_file_is_an_error_and_no_figure(descriptor):
    with pytest.raises(OSError, match="EIO"):
        Consumer(0).take_file(descriptor, bytearray(4096), np.array([SIZE], np.int64))


def test_more_pieces_than_there_may_be_are_refused(descriptor):
    with pytest.raises(ValueError, match="64 pieces"):
        Consumer(0).take_file(descriptor, bytearray(4096), np.array([0], np.int64), 65)


def test_work_on_each_page_takes_its_time(content):
    offsets = np.arange(0, SIZE, 4096, dtype=np.int64)
    elapsed_ns = Consumer(4096, 10_000).take_each(content.address, offsets, 4096)
    assert elapsed_ns >= 10_000 * len(offsets)


def test_another_thread_runs_while_pages_are_looked_at(content):
    counted = 0
    done = threading.Event()

    def count():
        nonlocal counted
        while not done.is_set():
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    before = counted
    offsets = np.arange(0, SIZE, 4096, dtype=np.int64)
    Consumer(4096, 400_000).take_each(content.address, offsets, 4096)  # 100 ms
    grown = counted - before
    done.set()
    thread.join()
    assert grown > 100


def test_a_reading_thread_ends_when_its_stop_word_is_set(content):
    stop = memory.Mapping(4096, flags=ANONYMOUS)
    thread = threading.Thread(target=scan.read_until, args=(content.address, SIZE, stop.address))
    thread.start()
    stop.view()[0] = 1
    thread.join(timeout=10)
    assert not thread.is_alive()
    stop.close()


def test_a_step_of_nothing_is_refused_where_it_would_never_end(content):
    with pytest.raises(ValueError, match="step"):
        scan.write_each(content.address, SIZE, 0, 1)
