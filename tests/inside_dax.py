"""Files on DAX; run by test_dax.py in a virtual machine, with tmp_path on persistent memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmbench import policy
from shmbench.measure.eviction import evict
from shmbench.native import memory
from shmbench.policy.residency import Residency
from shmbench.regions.mounts import new_files_are_dax
from shmbench.results import load

SIZE = 288 << 20  # where access at random would turn read-ahead off if the file were cold
PAGE = memory.PAGE_BYTES


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "large"
    block = np.random.default_rng(1).bytes(1 << 20)
    with open(path, "wb") as file:
        for number in range(SIZE >> 20):
            file.write(number.to_bytes(8, "little") + block[8:])
    yield path
    path.unlink()


def shmbench(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shmbench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_new_files_are_dax_here_and_not_in_memory(tmp_path: Path) -> None:
    assert new_files_are_dax(str(tmp_path))
    assert not new_files_are_dax("/dev/shm")
    assert not new_files_are_dax("/proc")


def test_they_count_as_warm_and_can_not_be_evicted(large: Path) -> None:
    with policy.open(large) as mapping, open(large, "rb") as file:
        assert Residency(mapping.address, SIZE, file.fileno()).sample() == "warm"
        found = evict(file.fileno(), SIZE)
    assert (found.proof, found.proven, found.after) == ("dax", False, SIZE // PAGE)


@pytest.mark.parametrize("step", [1 << 20, -PAGE, 0], ids=["strided", "reverse", "random"])
def test_auto_reads_what_pread_reads_and_leaves_read_ahead_alone(large: Path, step: int) -> None:
    order = (
        np.random.default_rng(2).integers(0, SIZE - PAGE, 4000).tolist()
        if step == 0
        else list(range(0, SIZE, step) if step > 0 else range(SIZE - PAGE, 0, step))
    )
    with policy.open(large) as mapping, open(large, "rb") as file:
        for offset in order:
            assert mapping.read(offset, PAGE) == os.pread(file.fileno(), PAGE, offset)
        stats = mapping.stats()
        assert (stats.misses, stats.bytes_asked["willneed"], stats.read_ahead) == (0, 0, True)


def test_a_known_order_is_followed_and_nothing_announced(large: Path) -> None:
    order = np.random.default_rng(3).permutation(SIZE // PAGE)[:5000] * PAGE
    with policy.open(large) as mapping, open(large, "rb") as file:
        follower = mapping.follow(order, PAGE)
        for offset, view in zip(order.tolist(), follower, strict=True):
            assert view == os.pread(file.fileno(), PAGE, offset)
        assert (follower.stats.items, follower.stats.announced) == (5000, 0)
        os.truncate(large, SIZE // 2)
        with pytest.raises(OSError, match="shrunk") as caught:
            list(mapping.follow(order, PAGE))
        assert caught.value.errno == errno.EFAULT


def test_a_hole_is_there_too(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(64 << 20)
    with policy.open(path) as mapping:
        for offset in range(0, 64 << 20, 1 << 20):
            assert mapping.read(offset, 8) == bytes(8)
        assert mapping.stats().misses == 0
    path.unlink()


def test_results_say_that_it_was_dax_and_cold_is_refused(tmp_path: Path) -> None:
    what = ("run", "--workload", "random_read", "--policy", "none,auto", "--quick")
    where = ("--region", "file", "--driver", "python", "--file-size", "4M", "--dir", tmp_path)
    output = tmp_path / "results.json"
    done = shmbench(*what, *where, "--budget", "1", "--cache", "warm", "--output", output)
    assert done.returncode == 0, done.stderr
    results = [result for result in load(output).results if result.policy is not None]
    assert {result.policy for result in results} >= {"none", "auto"}
    for result in results:
        assert (result.error, result.evidence is None) == (None, False)
        assert result.evidence["filesystem"] == "ext4"
        assert "dax=always" in result.evidence["mount_options"].split(",")
        assert result.evidence["residency_by"] == "dax"
    refused = shmbench(*what, *where, "--budget", "1", "--cache", "cold")
    assert refused.returncode == 1
    assert "never cold" in " ".join(refused.stdout.split())


def test_tune_measures_the_warm_file_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8 << 20))
    done = shmbench("tune", path, "--pattern", "random", "--policy", "auto", "--budget", "1")
    assert done.returncode == 0, done.stderr
    assert "warm" in done.stdout
