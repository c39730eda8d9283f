"""Pinning, the thread's own usage, and death with the parent: on the real kernel."""

import errno
import os
import signal
import threading
import time

import pytest

from shmbench.native import process


@pytest.fixture
def affinity():
    """The CPUs that this thread may use; given back after the test."""
    allowed = os.sched_getaffinity(0)
    yield sorted(allowed)
    os.sched_setaffinity(0, allowed)


def test_a_pinned_thread_runs_on_its_cpu(affinity):
    for cpu in affinity:
        process.pin_to_cpu(cpu)
        assert process.current_cpu() == cpu
        assert os.sched_getaffinity(0) == {cpu}


def test_pinning_one_thread_leaves_the_others_alone(affinity):
    thread = threading.Thread(target=process.pin_to_cpu, args=(affinity[0],))
    thread.start()
    thread.join()
    assert sorted(os.sched_getaffinity(0)) == affinity


@pytest.mark.parametrize("cpu", [8192, 100_000])
def test_a_cpu_that_is_not_there_is_an_error_that_names_it(affinity, cpu):
    with pytest.raises(OSError, match=f"pin to CPU {cpu}: .*EINVAL") as caught:
        process.pin_to_cpu(cpu)
    assert caught.value.errno == errno.EINVAL


def test_a_negative_cpu_is_refused():
    with pytest.raises(ValueError, match="-1"):
        process.pin_to_cpu(-1)


def test_a_signal_that_is_not_there_is_an_error():
    with pytest.raises(OSError, match="parent death signal 500") as caught:
        process.set_parent_death_signal(500)
    assert caught.value.errno == errno.EINVAL


def test_a_process_dies_with_the_parent_that_forked_it():
    read_end, write_end = os.pipe()
    parent = os.fork()
    if parent == 0:
        expected = os.getpid()
        if os.fork() == 0:
            process.set_parent_death_signal(signal.SIGKILL)
            if os.getppid() == expected:
                os.write(write_end, b"armed")
                time.sleep(20)
            os._exit(0)
        signal.pause()
    os.close(write_end)
    assert os.read(read_end, 5) == b"armed"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    started = time.monotonic()
    assert os.read(read_end, 1) == b""  # the child held the last writing end
    assert time.monotonic() - started < 10
    os.close(read_end)


def test_cpu_time_grows_while_computing_and_hardly_while_asleep():
    before = process.thread_usage()
    deadline = time.thread_time_ns() + 20_000_000
    while time.thread_time_ns() < deadline:
        pass
    computed = process.thread_usage()
    time.sleep(0.02)
    slept = process.thread_usage()
    assert computed.cpu_ns - before.cpu_ns >= 20_000_000
    assert slept.cpu_ns - computed.cpu_ns < 10_000_000
    assert slept.voluntary_switches > computed.voluntary_switches


def test_a_first_touch_counts_as_a_minor_fault():
    import mmap

    pages = 16
    with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        before = process.thread_usage()
        for page in range(pages):
            memory[page * mmap.PAGESIZE] = 1
        after = process.thread_usage()
    assert after.minor_faults - before.minor_faults >= pages


def test_usage_is_the_threads_and_not_the_processs():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(process.thread_usage()))
    thread.start()
    thread.join()
    assert seen[0].cpu_ns < process.thread_usage().cpu_ns
