"""What single kinds of region promise: how they are attached, what is full, and whose names."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked import FORKED_REGIONS
from needs import need
from region_harness import (
    DEADLINE_S,
    SIZE,
    Solo,
    descriptors,
    in_ranks,
    left_by,
    need_available,
    reserved_huge_pages,
    spec_of,
)

from shmbench.errors import Unavailable
from shmbench.group.process import ProcessGroup, run_ranks
from shmbench.regions import REGIONS, Region, RegionSpec, hugepages, names
from shmbench.regions.attachable import AttachableRegion
from shmbench.regions.file import default_directories
from shmbench.regions.mounts import mount_of

CLONE_NEWNS = 0x20000
ATTACHABLE = [name for name in FORKED_REGIONS if issubclass(REGIONS.get(name), AttachableRegion)]


@pytest.fixture(scope="module")
def huge_pages() -> Iterator[None]:
    with reserved_huge_pages():
        yield


@pytest.fixture(params=ATTACHABLE)
def attachable(request: pytest.FixtureRequest) -> type[Region]:
    """Each kind with a handle that this machine has."""
    found = REGIONS.get(request.param)
    if found.default_pages == "hugetlb":
        request.getfixturevalue("huge_pages")
    need_available(found, spec_of(found))
    return found


def test_any_rank_may_be_the_one_that_creates(attachable: type[AttachableRegion]) -> None:
    spec = RegionSpec(SIZE, attachable.default_pages, created_by=2)

    def use(group: ProcessGroup, region: Region) -> bytes:
        if group.rank == 0:
            region.memory[5] = 55
        group.barrier()
        return bytes(region.memory[5:6])

    assert in_ranks(attachable, 3, use, spec) == [bytes([55])] * 3


def test_what_is_created_is_this_users_alone(attachable: type[AttachableRegion]) -> None:
    spec = spec_of(attachable)
    region = attachable.create(spec)
    try:
        where = attachable.where(spec)
        if where is not None:
            (path,) = left_by({os.getpid()})
            assert path.parent == Path(where)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert names.parse_name(path.name) == (os.getuid(), os.getpid())
    finally:
        region.unlink()
        region.unlink()
        region.close()
    assert left_by({os.getpid()}) == []
    with pytest.raises(ValueError, match="no handle"):
        region.handle()


def test_a_rank_that_can_not_attach_makes_all_fail(attachable: type[AttachableRegion]) -> None:
    spec = spec_of(attachable)

    def body(group: ProcessGroup) -> bytes:
        if group.rank == 1:
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
        before = descriptors() if group.rank != 1 else 0
        try:
            attachable.open(group, spec)
        except Unavailable as error:
            pids = {int(pid) for pid in group.allgather(str(os.getpid()).encode())}
            if group.rank != 1:
                assert descriptors() == before
                assert left_by(pids) == []
            return str(error).encode()
        return b"opened"

    answers = run_ranks(3, body, timeout_s=DEADLINE_S)
    assert len(set(answers)) == 1
    assert b"allow more open files: ulimit -n" in answers[0]


@pytest.mark.parametrize("name", ["file", "posix_shm", "mp_shm"])
def test_a_creator_killed_at_once_leaves_a_name_that_is_known_to_be_stale(name: str) -> None:
    named = REGIONS.get(name)
    assert issubclass(named, AttachableRegion)
    spec = spec_of(named)
    where = named.where(spec)
    assert where is not None
    pid = os.fork()
    if pid == 0:
        named.create(spec)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    (left,) = left_by({pid})
    assert left in names.stale_names(Path(where))
    left.unlink()
    assert left_by({pid}) == []


def with_a_small_dev_shm(body: Callable[[], bytes]) -> bytes:
    """Run in a fork with mounts of its own, where /dev/shm has 1 MiB."""

    def confined(group: ProcessGroup) -> bytes:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", "/dev/shm"], check=True)
        return body()

    need(os.geteuid() == 0, "only root mounts a file system", "run the tests as root")
    return run_ranks(1, confined, timeout_s=DEADLINE_S)[0]


@pytest.mark.parametrize("name", ["file", "posix_shm", "mp_shm"])
def test_a_full_dev_shm_is_unavailable_and_no_sigbus(name: str) -> None:
    kind = REGIONS.get(name)

    def body() -> bytes:
        spec = RegionSpec(4 << 20, directory="/dev/shm")
        missing = kind.probe(spec)
        with pytest.raises(Unavailable):
            kind.open(Solo(), spec)
        assert list(Path("/dev/shm").iterdir()) == []
        small = kind.open(Solo(), RegionSpec(900_000, directory="/dev/shm"))
        small.memory[:] = bytes(900_000)
        small.close()
        return str(missing).encode()

    message = with_a_small_dev_shm(body).decode()
    assert message.startswith(f"{name}: 4,194,304 bytes in /dev/shm: No space left on device")
    assert "(1,048,576 bytes are free); make room in /dev/shm" in message


def test_a_file_larger_than_the_limit_is_unavailable() -> None:
    def body(group: ProcessGroup) -> bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        return str(REGIONS.get("file").probe(RegionSpec(4 << 20))).encode()

    (message,) = run_ranks(1, body, timeout_s=DEADLINE_S)
    assert b"ulimit -f" in message


@pytest.mark.parametrize("directory", ["/nowhere", "/proc", "/dev/null"])
def test_a_directory_that_takes_no_files_is_unavailable(directory: str) -> None:
    missing = REGIONS.get("file").probe(RegionSpec(4096, directory=directory))
    assert missing is not None
    assert directory in str(missing)
    assert missing.remedy


def test_a_file_lives_where_the_user_says(tmp_path: Path) -> None:
    kind = REGIONS.get("file")
    assert issubclass(kind, AttachableRegion)
    region = kind.create(RegionSpec(SIZE, directory=str(tmp_path)))
    (path,) = tmp_path.iterdir()
    region.memory[-1] = 3
    assert path.read_bytes()[SIZE - 1] == 3
    region.unlink()
    region.close()
    assert list(tmp_path.iterdir()) == []


def test_the_default_directories_are_one_in_memory_and_one_on_a_disk() -> None:
    mounts = [mount_of(directory) for directory in default_directories()]
    in_memory = [mount is not None and mount.in_memory for mount in mounts]
    assert in_memory in ([True, False], [True], [False])


def test_anonymous_memory_can_not_be_attached_by_ranks_that_inherited_none() -> None:
    def body(group: ProcessGroup) -> bytes:
        REGIONS.get("anonymous").open(group, RegionSpec(4096))
        return b""

    with pytest.raises(Unavailable, match="by inheritance only"):
        run_ranks(2, body, timeout_s=DEADLINE_S)


def test_anonymous_memory_comes_from_the_pool_on_request(huge_pages: None) -> None:
    kind = REGIONS.get("anonymous")
    spec = RegionSpec(SIZE, "hugetlb")
    need_available(kind, spec)
    free = hugepages.free_pages(2 << 20)
    region = kind.inherit(spec)
    assert region is not None
    assert hugepages.free_pages(2 << 20) == free - 2
    region.close()
    assert hugepages.free_pages(2 << 20) == free


def test_mp_shm_starts_no_tracker_and_says_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "import numpy as np\n"
        "from multiprocessing import resource_tracker\n"
        "from shmbench.group.process import run_ranks\n"
        "from shmbench.regions import REGIONS, RegionSpec\n"
        "kind, spec = REGIONS.get('mp_shm'), RegionSpec(5000)\n"
        "def body(group):\n"
        "    region = kind.open(group, spec)\n"
        "    kept = np.frombuffer(region.memory, np.uint8)\n"
        "    region.close()\n"
        "    return bytes(kept[:1])\n"
        "run_ranks(2, body, timeout_s=10)\n"
        "class Solo:\n"
        "    rank, size = 0, 1\n"
        "    barrier = lambda self: None\n"
        "    allgather = lambda self, item: [item]\n"
        "kept = np.frombuffer(kind.open(Solo(), spec).memory, np.uint8)\n"
        "assert resource_tracker._resource_tracker._fd is None\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_pool_that_is_too_small_is_said_to_be() -> None:
    missing = REGIONS.get("hugetlb").probe(RegionSpec(1 << 40, "hugetlb"))
    assert missing is not None
    assert "524288 wanted" in missing.message
    assert "sysctl vm.nr_hugepages=" in (missing.remedy or "")
