"""Policies over other file systems than this machine's own: memory, huge pages, a loop device."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from needs import need

from shmbench import policy
from shmbench.measure.flags import Flag
from shmbench.regions.mounts import mount_of
from shmbench.results import Result, load

SIZE = 4 << 20
HUGE_BYTES = 2 << 20


class Kind(NamedTuple):
    """How to have such a file system."""

    filesystem: str
    options: str
    image_bytes: int = 0  # 0: it needs no device


KINDS = {
    "ext4 on a loop device": Kind("ext4", "loop,noatime", 64 << 20),
    "xfs on a loop device": Kind("xfs", "loop,noatime", 512 << 20),
    "ramfs": Kind("ramfs", "mode=755"),
    "tmpfs with huge pages": Kind("tmpfs", "huge=within_size,size=64M"),
}


def mounted(kind: Kind, folder: Path) -> Iterator[Path]:
    need(os.geteuid() == 0, "mounting needs root", "run as root")
    point, image = folder / "mounted", folder / "image"
    point.mkdir()
    device = "none"
    if kind.image_bytes:
        make = shutil.which(f"mkfs.{kind.filesystem}")
        need(make is not None, f"there is no mkfs.{kind.filesystem}", "install its package")
        with open(image, "wb") as file:
            file.truncate(kind.image_bytes)
        subprocess.run([str(make), "-q", image], check=True, capture_output=True)
        device = str(image)
    command = ["mount", "-t", kind.filesystem, "-o", kind.options, device, str(point)]
    done = subprocess.run(command, capture_output=True, text=True)
    need(done.returncode == 0, done.stderr.strip(), "run where mount(2) is allowed")
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.fixture(params=KINDS)
def somewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Kind, Path]]:
    kind = KINDS[request.param]
    for point in mounted(kind, tmp_path):
        yield kind, point


def measured(directory: Path, output: Path) -> list[Result]:
    subprocess.run(
        [
            *(sys.executable, "-m", "shmbench", "run", "--workload", "random_read"),
            *("--policy", "none,auto,guided,mapping_cache", "--driver", "python", "--quick"),
            *("--region", "file", "--file-size", str(SIZE), "--budget", "1"),
            *("--dir", directory, "--output", output),
            *("--cache", "warm" if mount_of(str(directory)).in_memory else "cold,warm"),
        ],
        check=True,
        capture_output=True,
    )
    return load(output).results


@pytest.mark.slow
def test_results_say_which_file_system_it_was_and_how_it_is_mounted(
    somewhere: tuple[Kind, Path], tmp_path: Path
) -> None:
    kind, directory = somewhere
    results = [r for r in measured(directory, tmp_path / "r.json") if r.policy is not None]
    assert {result.policy for result in results} >= {"none", "auto", "guided", "mapping_cache"}
    for result in results:
        assert result.error is None
        assert result.evidence is not None
        assert result.evidence["filesystem"] == kind.filesystem
        assert "rw" in result.evidence["mount_options"].split(",")
        assert Flag.NOT_EVICTED not in result.flags
    if kind.image_bytes:
        assert "noatime" in results[0].evidence["mount_options"]
        assert {result.cache for result in results} == {"cold", "warm"}


def test_a_policy_reads_what_pread_reads_and_notices_that_the_file_shrank(
    somewhere: tuple[Kind, Path],
) -> None:
    path = somewhere[1] / "file"
    content = np.random.default_rng(3).bytes(SIZE + 17)
    path.write_bytes(content)
    with policy.open(path) as mapping:
        for _ in range(3):
            assert b"".join(mapping.blocks(10_000)) == content
        assert b"".join(mapping.follow(range(0, SIZE, 4096), 4096)) == content[:SIZE]
        os.truncate(path, SIZE // 2 + 5)
        assert mapping.read(SIZE // 2, 5) == content[SIZE // 2 : SIZE // 2 + 5]
        for call in (
            lambda: mapping.read(SIZE // 2, 6),
            lambda: list(mapping.blocks(4096)),
            lambda: list(mapping.follow(range(0, SIZE, 4096), 4096)),
            mapping.populate,
        ):
            with pytest.raises(OSError, match="file") as caught:
                call()
            assert (caught.value.errno, caught.value.filename) == (errno.EFAULT, str(path))


def test_a_file_of_huge_pages_can_be_read_and_grow(tmp_path: Path) -> None:
    free = Path("/proc/meminfo").read_text().partition("HugePages_Free:")[2].split()[0]
    need(int(free) >= 4, "too few huge pages are free", "sysctl vm.nr_hugepages=64")
    for point in mounted(Kind("hugetlbfs", "pagesize=2M"), tmp_path):
        path = point / "file"
        with policy.open(path, "w+", size=HUGE_BYTES) as mapping:
            mapping.read(0, 5)[:] = b"hello"
        with policy.open(path) as mapping:
            assert [bytes(mapping.read(0, 5)) for _ in range(100)] == [b"hello"] * 100
            assert bytes(next(iter(mapping.follow([0], 5)))) == b"hello"
            os.truncate(path, 2 * HUGE_BYTES)
            assert mapping.read(HUGE_BYTES, 5) == bytes(5)
            os.truncate(path, 0)
            with pytest.raises(OSError, match="file ends at 0"):
                mapping.read(0, 5)
