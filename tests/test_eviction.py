"""Files to measure on, and their eviction, on the file systems that this machine has."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

import pytest
from needs import need

from shmbench.errors import Unavailable
from shmbench.measure import eviction
from shmbench.measure.eviction import evict, read_in, residency
from shmbench.native import memory
from shmbench.regions.file import default_directories
from shmbench.regions.fixture import Fixture, Fixtures, FixtureSpec
from shmbench.regions.mounts import mount_of
from shmbench.regions.names import fresh_name, parse_name

SIZE = 4 << 20


def directory_of(in_memory: bool) -> str:
    for directory in default_directories():
        mount = mount_of(directory)
        if mount is not None and mount.in_memory is in_memory:
            return directory
    kind = "tmpfs" if in_memory else "disk"
    need(False, f"no writable directory on a {kind}", "make /dev/shm and /var/tmp writable")
    raise AssertionError


@pytest.fixture(params=[FixtureSpec("disk", SIZE), FixtureSpec("tmpfs", SIZE)], ids=str)
def fixture(request):
    in_memory = request.param.directory == "tmpfs"
    made = Fixture.make(FixtureSpec(directory_of(in_memory), SIZE))
    yield made
    made.close()


def disk_fixture():
    return Fixture.make(FixtureSpec(directory_of(False), SIZE))


def test_a_file_on_a_disk_is_evicted_and_proven_to_be():
    made = disk_fixture()
    read_in(made.fd, SIZE)
    found = evict(made.fd, SIZE)
    made.close()
    assert found.proven
    assert found.before == found.pages == SIZE // 4096
    assert found.after == 0


def test_dirty_pages_are_written_back_before_they_go():
    made = disk_fixture()
    os.pwrite(made.fd, b"changed", 5000)
    assert evict(made.fd, SIZE).proven
    assert os.pread(made.fd, 7, 5000) == b"changed"
    made.close()


def test_a_file_in_memory_stays_there_and_that_is_said():
    made = Fixture.make(FixtureSpec(directory_of(True), SIZE))
    found = evict(made.fd, SIZE)
    made.close()
    assert not found.proven
    assert found.after == found.pages


def test_a_mapped_page_stays_and_that_is_said():
    made = disk_fixture()
    with mmap.mmap(made.fd, SIZE, prot=mmap.PROT_READ) as mapped:
        memory.touch_read(memory.address_of(mapped), SIZE)
        found = evict(made.fd, SIZE)
    made.close()
    assert not found.proven
    assert found.after > 0


def test_mincore_counts_what_cachestat_counts(fixture, monkeypatch):
    read_in(fixture.fd, SIZE)
    by_cachestat = residency(fixture.fd, SIZE)

    def missing(fd):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(eviction.memory, "cachestat", missing)
    by_mincore = residency(fixture.fd, SIZE)
    assert by_mincore.proof == "mincore"
    assert by_mincore.pages == by_cachestat.pages == SIZE // 4096


def test_a_fixture_is_private_full_and_without_a_name(fixture):
    assert stat.S_IMODE(os.fstat(fixture.fd).st_mode) == 0o600
    assert os.fstat(fixture.fd).st_nlink == 0
    content = os.pread(os.open(fixture.path, os.O_RDONLY), SIZE, 0)
    assert len(content) == SIZE
    assert 0 not in {sum(content[i : i + 8]) for i in range(0, SIZE, 4096)}


def test_a_named_fixture_has_a_name_of_ours_until_it_is_closed():
    with Fixtures() as fixtures:
        spec = FixtureSpec(directory_of(True), SIZE, named=True)
        made = fixtures.get(spec)
        assert fixtures.get(spec) is made
        assert parse_name(Path(made.path).name) == (os.getuid(), os.getpid())
    assert not Path(made.path).exists()


def test_an_existing_file_is_neither_written_to_nor_removed(tmp_path):
    path = tmp_path / fresh_name()
    path.write_bytes(b"mine" * 2048)
    path.chmod(0o400)
    with Fixtures() as fixtures:
        found = fixtures.get(FixtureSpec(None, 8192, existing=str(path)))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(found.fd, b"x")
    assert path.read_bytes() == b"mine" * 2048


def test_a_fixture_without_room_is_refused_and_leaves_nothing():
    directory = directory_of(False)
    before = set(Path(directory).iterdir())
    with pytest.raises(Unavailable, match="are free there"):
        Fixture.make(FixtureSpec(directory, 1 << 50))
    assert set(Path(directory).iterdir()) == before


def test_a_fixture_in_a_missing_directory_is_refused_with_the_remedy():
    with pytest.raises(Unavailable, match="choose another directory"):
        Fixture.make(FixtureSpec("/nonexistent-directory", SIZE))
