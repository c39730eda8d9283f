"""The mapping cache: what is found, what goes and in which order, counted exactly."""

import errno
import gc
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from needs import need

from shmbench.native.memory import PAGE_BYTES as PAGE
from shmbench.policy.cache import CacheStats, MappingCache, shared_cache
from shmbench.policy.hints import Hint
from shmbench.policy.pressure import PressureWatch, average_10s, pressure_file

NOTHING_DONE = CacheStats(*([0] * 11))


def mapped(folder: Path) -> list[str]:
    """The names of the files in a folder that this process has mapped, once a mapping."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted(line.rpartition("/")[2] for line in lines if f" {folder}/" in line)


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def counted(cache: MappingCache) -> dict[str, int]:
    stats = cache.stats()
    names = ("hits", "misses", "stale", "evictions", "uncached", "entries", "in_use")
    return {name: value for name in names if (value := getattr(stats, name))}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Files a to f of one page each, full of their own name."""
    paths = {name: tmp_path / name for name in "abcdef"}
    for name, path in paths.items():
        path.write_bytes(name.encode() * PAGE)
    return paths


@pytest.fixture
def cache() -> Iterator[MappingCache]:
    made = MappingCache(max_bytes=1 << 20, max_entries=3)
    yield made
    made.close()


def test_a_trace_is_hit_and_missed_and_evicted_in_the_order_of_last_use(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    trace = [  # what is opened and closed, then what is mapped, and the hits until then
        ("a", "a", 0),
        ("b", "ab", 0),
        ("c", "abc", 0),
        ("a", "abc", 1),
        ("d", "acd", 1),
        ("a", "acd", 2),
        ("b", "abd", 2),
        ("c", "abc", 2),
        ("b", "abc", 3),
        ("e", "bce", 3),
        ("f", "bef", 3),
        ("b", "bef", 4),
    ]
    for number, (name, there, hits) in enumerate(trace, 1):
        with cache.open(files[name]) as mapping:
            assert bytes(mapping.memory) == name.encode() * PAGE
        assert mapped(tmp_path) == list(there)
        stats = cache.stats()
        assert (stats.hits, stats.misses) == (hits, number - hits)
    assert counted(cache) == {"hits": 4, "misses": 8, "evictions": 5, "entries": 3}
    order = []
    while cache.evict(bytes_wanted=1):
        order.append(mapped(tmp_path))
    assert order == [["b", "f"], ["b"], []]


def test_what_was_closed_last_goes_last_whatever_was_opened_last(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    first, second = cache.open(files["a"]), cache.open(files["b"])
    second.close()
    first.close()
    assert cache.evict(1) == PAGE
    assert mapped(tmp_path) == ["a"]


def test_the_limit_of_bytes_counts_whole_pages(tmp_path: Path) -> None:
    cache = MappingCache(max_bytes=4 * PAGE, max_entries=100)
    for name, size in {"a": 1, "b": PAGE, "c": PAGE + 1, "d": 2 * PAGE}.items():
        (tmp_path / name).write_bytes(b"x" * size)
        cache.open(tmp_path / name).close()
    assert mapped(tmp_path) == ["c", "d"]
    stats = cache.stats()
    assert stats == replace(
        NOTHING_DONE,
        misses=4,
        evictions=2,
        entries=2,
        bytes_mapped=4 * PAGE,
        bytes_resident=4 * PAGE,
        entries_peak=3,
        bytes_peak=4 * PAGE,
    )
    cache.close()


def test_a_file_larger_than_the_limit_evicts_nothing_and_is_not_parked(
    files: dict[str, Path], tmp_path: Path
) -> None:
    cache = MappingCache(max_bytes=2 * PAGE)
    cache.open(files["a"]).close()
    (tmp_path / "large").write_bytes(b"x" * 3 * PAGE)
    with cache.open(tmp_path / "large") as mapping:
        assert not mapping.cached
        assert mapped(tmp_path) == ["a", "large"]
    assert mapped(tmp_path) == ["a"]
    assert counted(cache) == {"misses": 2, "uncached": 1, "entries": 1}
    cache.close()


def test_where_all_is_in_use_a_further_file_is_mapped_outside_and_not_parked(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    inside = [cache.open(files[name]) for name in "abc"]
    outside = [cache.open(files["d"]), cache.open(files["d"])]
    assert counted(cache) == {"misses": 5, "uncached": 2, "entries": 3, "in_use": 3}
    assert outside[0].address != outside[1].address
    for mapping in outside + inside:
        mapping.close()
    assert mapped(tmp_path) == ["a", "b", "c"]
    assert cache.stats().entries_peak == 3


def test_a_cache_of_no_entries_only_maps_and_unmaps(files: dict[str, Path], tmp_path: Path) -> None:
    cache = MappingCache(max_entries=0)
    for _ in range(3):
        with cache.open(files["a"]) as mapping:
            assert mapping.read(0, 3) == b"aaa"
    assert mapped(tmp_path) == []
    assert counted(cache) == {"misses": 3, "uncached": 3}


def test_users_of_one_file_share_one_mapping_until_the_last_has_closed_it(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    first, second = cache.open(files["a"]), cache.open(str(files["a"]))
    assert first.address == second.address
    assert counted(cache) == {"hits": 1, "misses": 1, "entries": 1, "in_use": 1}
    first.close()
    first.close()
    assert cache.evict() == 0
    assert second.read(0, 1) == b"a"
    second.close()
    assert cache.evict() == PAGE
    assert mapped(tmp_path) == []


def test_a_file_is_found_by_each_of_its_names(cache: MappingCache, files: dict[str, Path]) -> None:
    os.link(files["a"], files["a"].with_name("hard"))
    files["a"].with_name("soft").symlink_to(files["a"])
    for name in ("a", "hard", "soft"):
        cache.open(files["a"].with_name(name)).close()
    cache.open(os.fsencode(files["a"])).close()
    assert counted(cache) == {"hits": 3, "misses": 1, "entries": 1}


def test_reading_and_writing_are_mapped_apart_and_see_each_other(
    cache: MappingCache, files: dict[str, Path]
) -> None:
    with cache.open(files["a"]) as reader, cache.open(files["a"], "r+") as writer:
        assert reader.memory.readonly
        writer.memory[:3] = b"new"
        assert reader.read(0, 4) == b"newa"
    assert counted(cache) == {"misses": 2, "entries": 2}
    assert files["a"].read_bytes()[:4] == b"newa"


# What happened to the file meanwhile


def test_a_replaced_file_is_a_miss_and_the_old_one_is_dropped(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    cache.open(files["a"]).close()
    files["b"].rename(files["a"])
    with cache.open(files["a"]) as mapping:
        assert mapping.read(0, 2) == b"bb"
        assert mapped(tmp_path) == ["a"]
    assert counted(cache) == {"misses": 2, "stale": 1, "entries": 1}


def test_a_replaced_file_stays_good_for_those_who_have_it_open(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    old = cache.open(files["a"])
    files["b"].rename(files["a"])
    cache.open(files["a"]).close()
    assert old.read(0, 2) == b"aa"
    assert not old.cached
    old.close()
    assert mapped(tmp_path) == ["a"]


def test_a_removed_file_is_dropped_when_it_is_missed(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    cache.open(files["a"]).close()
    files["a"].unlink()
    assert mapped(tmp_path) == ["a (deleted)"]
    with pytest.raises(FileNotFoundError, match=str(files["a"])):
        cache.open(files["a"])
    assert mapped(tmp_path) == []
    assert counted(cache) == {"misses": 1, "stale": 1}


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE + 1, 5 * PAGE])
def test_a_parked_mapping_of_a_file_that_shrank_or_grew_is_resized(
    cache: MappingCache, files: dict[str, Path], size: int
) -> None:
    cache.open(files["a"]).close()
    os.truncate(files["a"], size)
    with cache.open(files["a"]) as mapping:
        assert mapping.size == len(mapping.memory) == size
        assert bytes(mapping.memory) == files["a"].read_bytes()
        assert cache.stats().bytes_mapped == -(-size // PAGE) * PAGE
    assert counted(cache) == {"hits": 1, "misses": 1, "stale": 1, "entries": 1}


def test_a_file_that_becomes_empty_and_full_again_is_mapped_anew(
    cache: MappingCache, files: dict[str, Path]
) -> None:
    for size in (PAGE, 0, 0, 10):
        os.truncate(files["a"], size)
        with cache.open(files["a"]) as mapping:
            assert len(mapping.memory) == size
            assert bytes(mapping.memory) == files["a"].read_bytes()
    assert counted(cache) == {"hits": 1, "misses": 3, "stale": 2, "entries": 1}


def test_growing_evicts_others_but_never_itself(files: dict[str, Path], tmp_path: Path) -> None:
    cache = MappingCache(max_bytes=4 * PAGE)
    for name in "abc":
        cache.open(files[name]).close()
    os.truncate(files["a"], 3 * PAGE)
    cache.open(files["a"]).close()
    assert mapped(tmp_path) == ["a", "c"]
    os.truncate(files["a"], 9 * PAGE)
    with cache.open(files["a"]) as mapping:
        assert mapping.size == 9 * PAGE
        assert not mapping.cached
    assert mapped(tmp_path) == ["c"]
    cache.close()


def test_growth_found_by_a_second_user_leaves_the_first_ones_bytes_where_they_are(
    cache: MappingCache, files: dict[str, Path]
) -> None:
    first = cache.open(files["a"])
    address, view = first.address, first.memory
    os.truncate(files["a"], 100 * PAGE)
    with cache.open(files["a"]) as second:
        assert second.size == 100 * PAGE
        assert bytes(second.memory[-1:]) == b"\0"
    assert first.address == address
    assert bytes(view) == b"a" * PAGE
    first.close()


def test_a_file_that_shrinks_while_it_is_open_is_an_error_with_its_path_not_a_signal(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    os.truncate(files["a"], 4 * PAGE)
    first = cache.open(files["a"])
    os.truncate(files["a"], PAGE + 5)
    assert first.read(PAGE, 5) == bytes(5)
    for beyond in (lambda: first.read(PAGE, 6), lambda: first.ndarray("u1", PAGE, 2 * PAGE)):
        with pytest.raises(OSError, match=r"has 4101 now and had 16384") as caught:
            beyond()
        assert (caught.value.errno, caught.value.filename) == (errno.EFAULT, str(files["a"]))
    with cache.open(files["a"]) as second:
        assert second.size == PAGE + 5
    first.close()
    assert mapped(tmp_path) == ["a"]
    assert counted(cache) == {"misses": 2, "stale": 1, "entries": 1}


# Arrays and views


def test_an_array_shows_the_file_and_outlives_eviction(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    np.arange(100, dtype="<i4").tofile(files["a"])
    with cache.open(files["a"], "r+") as mapping:
        array = mapping.ndarray("<i4", (9, 10), 40)
    assert array.sum() == sum(range(10, 100))
    array[0, 0] = -1
    cache.evict()
    assert mapped(tmp_path) == ["a"]
    assert np.fromfile(files["a"], "<i4")[10] == array[0, 0] == -1
    del array
    assert mapped(tmp_path) == []


def test_an_array_that_refers_to_the_mapping_without_a_buffer_keeps_it_mapped_where_it_is(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    with cache.open(files["a"]) as mapping:
        array = np.ndarray(PAGE, "u1", buffer=mapping.memory)
    os.truncate(files["a"], 1000 * PAGE)
    with cache.open(files["a"]) as mapping:
        assert mapping.size == 1000 * PAGE
    cache.evict()
    assert mapped(tmp_path) == ["a"]
    assert set(array) == {ord("a")}
    del array
    assert mapped(tmp_path) == []


def test_a_view_that_one_user_releases_does_not_hurt_the_others(
    cache: MappingCache, files: dict[str, Path]
) -> None:
    with cache.open(files["a"]) as first, cache.open(files["a"]) as second:
        first.memory.release()
        assert bytes(first.memory[:2]) == bytes(second.memory[:2]) == b"aa"


def test_a_handle_that_was_closed_gives_nothing_more(
    cache: MappingCache, files: dict[str, Path]
) -> None:
    mapping = cache.open(files["a"])
    mapping.close()
    for use in (
        lambda: mapping.memory,
        lambda: mapping.address,
        lambda: mapping.fd,
        lambda: mapping.read(0, 1),
        lambda: mapping.advise(Hint.WILLNEED),
    ):
        with pytest.raises(ValueError, match="the mapping is closed"):
            use()


def test_a_handle_that_is_dropped_without_close_is_given_back(
    cache: MappingCache, files: dict[str, Path]
) -> None:
    cache.open(files["a"])
    gc.collect()
    assert counted(cache) == {"misses": 1, "entries": 1}
    assert cache.evict() == PAGE


def test_read_ahead_hints_are_undone_before_a_mapping_is_lent_again(
    cache: MappingCache, files: dict[str, Path]
) -> None:
    def kernel_flags(address: int) -> list[str]:
        smaps = Path("/proc/self/smaps").read_text().split(f"\n{address:x}-")[1]
        return smaps.split("VmFlags:")[1].split("\n")[0].split()

    with cache.open(files["a"]) as mapping:
        mapping.advise(Hint.RANDOM)
        assert "rr" in kernel_flags(mapping.address)
    with cache.open(files["a"]) as mapping:
        assert "rr" not in kernel_flags(mapping.address)
        mapping.advise(Hint.DONTFORK)
    assert counted(cache) == {"hits": 1, "misses": 1}


# Requests, refusals, resources


def test_what_is_forgotten_is_not_found_again(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    cache.open(files["a"]).close()
    cache.open(files["a"], "r+").close()
    used = cache.open(files["b"])
    cache.forget(files["a"])
    cache.forget(files["b"])
    assert mapped(tmp_path) == ["b"]
    used.close()
    assert mapped(tmp_path) == []
    cache.forget(tmp_path / "never there")
    assert counted(cache) == {"misses": 3, "evictions": 2}


def test_clearing_spares_only_what_is_in_use_and_closing_ends_it(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    cache.open(files["a"]).close()
    used = cache.open(files["b"])
    cache.clear()
    assert mapped(tmp_path) == ["b"]
    cache.close()
    assert used.read(0, 1) == b"b"
    used.close()
    assert mapped(tmp_path) == []
    with pytest.raises(ValueError, match="cache is closed"):
        cache.open(files["a"])


def test_what_is_not_a_regular_file_is_refused_at_once(cache: MappingCache, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, number in ((tmp_path, errno.EISDIR), (tmp_path / "fifo", errno.ENODEV)):
        with pytest.raises(OSError, match="regular") as caught:
            cache.open(path)
        assert caught.value.errno == number
        assert caught.value.filename == path
    with pytest.raises(ValueError, match="null byte"):
        cache.open("a\0b")
    with pytest.raises(ValueError, match="'w' is neither"):
        cache.open(tmp_path / "x", "w")  # type: ignore[arg-type]
    assert cache.stats() == NOTHING_DONE


def test_parked_descriptors_are_given_up_when_the_process_has_no_more(tmp_path: Path) -> None:
    cache = MappingCache(max_entries=1000, watch_pressure=False)
    paths = [tmp_path / f"{number}" for number in range(60)]
    for path in paths:
        path.write_bytes(b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_files()) + 20, hard))
    try:
        for path in paths:
            cache.open(path).close()
        assert cache.stats().misses == len(paths)
        with pytest.raises(OSError, match="Too many open files"):
            _ = [cache.open(path) for path in paths]  # in use, they can't be given up
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    cache.close()


def test_resident_bytes_are_those_in_the_page_cache(tmp_path: Path) -> None:
    cache = MappingCache()
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(64 * PAGE)
    for _ in range(2):
        cache.open(path).close()
    stats = cache.stats()
    assert stats.bytes_mapped == 64 * PAGE
    assert stats.bytes_resident < 64 * PAGE
    with cache.open(path) as mapping:
        assert sum(mapping.memory) == 0
    assert cache.stats().bytes_resident == 64 * PAGE
    cache.close()


def test_the_process_has_one_shared_cache() -> None:
    assert shared_cache() is shared_cache()


# Threads and forks

THREADS, OPENS, FILES, LIMIT = 8, 100_000, 1000, 100


def test_under_eight_threads_the_counters_are_exact_and_the_limit_holds(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}") for number in range(FILES)]
    for path in paths:
        Path(path).write_bytes(path.encode())
    cache = MappingCache(max_entries=LIMIT)
    files_before = len(open_files())
    wrong: list[str] = []

    def use(seed: int) -> None:
        # Zipf-like: most opens are of few files, all files are opened
        ranks = np.random.default_rng(seed).zipf(1.3, OPENS // THREADS)
        for rank in (ranks % FILES).tolist():
            with cache.open(paths[rank]) as mapping:
                if mapping.memory != paths[rank].encode():
                    wrong.append(paths[rank])

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        # Of what is mapped, each thread may have one outside of the cache.
        most = max(most, len(mapped(tmp_path)))
        time.sleep(0.05)
    stats = cache.stats()
    assert not wrong
    assert stats.hits + stats.misses == OPENS
    assert stats.hits > stats.misses > FILES / 2
    assert stats.misses - stats.evictions - stats.uncached == stats.entries == LIMIT
    assert (stats.entries_peak, stats.stale, stats.in_use) == (LIMIT, 0, 0)
    assert most <= LIMIT + THREADS
    assert len(mapped(tmp_path)) == LIMIT
    cache.close()
    assert mapped(tmp_path) == []
    assert len(open_files()) <= files_before


def in_child(body: Callable[[], None], within_s: float = 10) -> None:
    """Fork, run, and end without a trace; fails when the child fails or hangs."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(within_s))
        try:
            body()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_child_has_what_was_parked_and_may_close_what_was_in_use(
    cache: MappingCache, files: dict[str, Path], tmp_path: Path
) -> None:
    cache.open(files["a"]).close()
    used = cache.open(files["b"])

    def child() -> None:
        with cache.open(files["a"]) as mapping:
            assert mapping.read(0, 1) == b"a"
        assert counted(cache) == {"hits": 1, "misses": 2, "entries": 1}
        assert used.read(0, 1) == b"b"
        assert not used.cached
        used.close()
        assert mapped(tmp_path) == ["a"]
        for name in "cde":
            cache.open(files[name]).close()
        assert mapped(tmp_path) == ["c", "d", "e"]
        cache.close()

    in_child(child)
    assert counted(cache) == {"misses": 2, "entries": 2, "in_use": 1}
    used.close()
    assert mapped(tmp_path) == ["a", "b"]


def test_a_fork_amid_the_work_of_other_threads_leaves_the_child_a_cache_that_works(
    cache: MappingCache, files: dict[str, Path]
) -> None:
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            for path in files.values():
                cache.open(path).close()

    def child() -> None:
        for path in files.values():
            with cache.open(path) as mapping:
                assert mapping.read(0, 1) == path.name.encode()
        assert cache.stats().in_use == 0
        assert cache.stats().entries == 3
        cache.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            in_child(child)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    stats = cache.stats()
    assert stats.misses - stats.evictions - stats.uncached == stats.entries


# Memory pressure


def test_under_pressure_the_older_half_goes(files: dict[str, Path], tmp_path: Path) -> None:
    cache = MappingCache()
    for name in "abcde":
        cache.open(files[name]).close()
    used = cache.open(files["a"])
    assert cache.relieve() == 2 * PAGE
    assert mapped(tmp_path) == ["a", "d", "e"]
    used.close()
    cache.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_high_average_calls_and_a_low_one_does_not(tmp_path: Path) -> None:
    pressure = tmp_path / "memory.pressure"
    line = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 total=0\n"
    pressure.write_text(line.format("4.99"))
    assert average_10s(pressure.read_text()) == 4.99
    calls: list[float] = []
    watch = PressureWatch(
        lambda: calls.append(1), pressure, trigger=None, look_every_s=0.01, average_percent=5
    )
    time.sleep(0.1)
    assert not calls
    pressure.write_text(line.format("5.00"))
    wait_for(lambda: len(calls) > 1)
    watch.stop()
    watch.stop()
    assert not any(thread.name == "memory-pressure" for thread in threading.enumerate())


def test_the_kernel_takes_a_trigger_and_the_thread_ends_with_its_cache(
    files: dict[str, Path],
) -> None:
    path = pressure_file()
    need(path is not None, "no /proc/pressure/memory", "boot with psi=1")
    assert path is not None
    watch = PressureWatch(lambda: None, path)
    need(watch.triggered, f"{path} takes no trigger from this user", "Linux 6.5, or root")
    watch.stop()
    before, threads_before = open_files(), threading.active_count()
    cache = MappingCache()
    cache.open(files["a"]).close()
    assert threading.active_count() == threads_before + 1
    del cache
    gc.collect()
    assert threading.active_count() == threads_before
    assert open_files() <= before
