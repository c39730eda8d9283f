"""Page states: what is asked for is brought about, proved, and refusals are on record."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from forked import FORKED_REGIONS
from needs import need
from region_harness import SIZE, Solo, in_ranks, need_available, open_alone, reserved_huge_pages

from shmbench.group.process import ProcessGroup
from shmbench.native.memory import MAP_ANONYMOUS, MAP_PRIVATE, PAGE_BYTES, Mapping, touch_read
from shmbench.regions import PAGES, REGIONS, Pages, Region, RegionSpec
from shmbench.regions.file import default_directories
from shmbench.regions.mounts import mount_of
from shmbench.regions.pages import PrivateBuffer, evidence, evidence_of, prepare
from shmbench.regions.smaps import parse

WHOLE = -(-SIZE // PAGE_BYTES)  # pages
HUGE = 4 << 20  # of the same, in pages of 2 MiB
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")

SMAPS = """\
55d0c8a00000-55d0c8a21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
KernelPageSize:        4 kB
Rss:                   8 kB
VmFlags: rd wr mr mw me ac
7f1b40000000-7f1b40400000 rw-s 00001000 fe:01 1234567                    /dev/shm/a b (deleted)
Size:               4096 kB
KernelPageSize:     2048 kB
Rss:                4096 kB
AnonHugePages:         0 kB
ShmemPmdMapped:     2048 kB
THPeligible:           1
ProtectionKey:         0
VmFlags: rd wr sh mr mw me ms sd
7f1b50000000-7f1b50001000 ---p 00000000 00:00 0
Rss:                   0 kB
"""


@pytest.fixture(scope="module")
def huge_pages() -> Iterator[None]:
    with reserved_huge_pages():
        yield


def region_of(request: pytest.FixtureRequest, name: str, pages: Pages) -> type[Region]:
    """A kind with pages that this machine has."""
    kind = REGIONS.get(name)
    if pages == "hugetlb":
        request.getfixturevalue("huge_pages")
    need_available(kind, RegionSpec(SIZE, pages))
    return kind


def combinations() -> list[tuple[str, Pages]]:
    """Each kind with each page state that it can have where there are huge pages."""
    found = []
    for name in FORKED_REGIONS:
        for pages in PAGES:
            missing = REGIONS.get(name).probe(RegionSpec(SIZE, pages))
            if missing is None or "huge pages" in missing.message:
                found.append((name, pages))
    return found


def counted(evidence: dict[str, Any], key: str) -> int:
    need(evidence["zero_pages"] is not None, "no PAGEMAP_SCAN", "run on Linux 6.7 or later")
    value = evidence[key]
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize(("name", "pages"), combinations())
def test_each_rank_ends_up_with_the_pages_asked_for(
    request: pytest.FixtureRequest, name: str, pages: Pages
) -> None:
    kind, spec = region_of(request, name, pages), RegionSpec(SIZE, pages)
    if pages == "thp":
        need(THP.exists(), "no transparent huge pages", "run a kernel that has them")

    def use(group: ProcessGroup, region: Region) -> bytes:
        prepared = prepare(region, spec, group, first_touch=1)
        assert prepared["first_touch"] == (None if pages == "untouched" else 1)
        return msgspec.json.encode([prepared, evidence(region)])

    for answer in in_ranks(kind, 2, use, spec):
        prepared, found = msgspec.json.decode(answer)
        assert prepared["pages"] == pages
        if pages == "thp":
            # A kernel may refuse for a file system; then it has to be on record.
            assert found["huge_bytes"] == HUGE or prepared["refused"]
        else:
            assert prepared["refused"] == []
        if pages == "hugetlb":
            assert found["hugetlb_bytes"] == HUGE
            assert found["page_bytes"] == 2 << 20
        if pages == "prefault":
            assert found["huge_bytes"] == found["hugetlb_bytes"] == 0
            assert found["page_bytes"] == PAGE_BYTES
        assert found["bytes"] == WHOLE * PAGE_BYTES
        if pages != "untouched":
            assert found["present_pages"] == WHOLE
            assert found["zero_pages"] in (0, None)


def test_untouched_pages_are_in_no_page_table() -> None:
    spec = RegionSpec(SIZE, "untouched")
    region = open_alone(REGIONS.get("memfd"), spec)
    prepare(region, spec, Solo(), first_touch=0)
    found = evidence(region)
    assert found["present_pages"] == found["mapped_bytes"] == 0
    region.close()


@pytest.mark.parametrize("pages", ["prefault", "thp"])
def test_preparing_keeps_the_content(pages: Pages) -> None:
    spec = RegionSpec(SIZE, pages)
    region = open_alone(REGIONS.get("memfd"), spec)
    content = np.random.default_rng(2).integers(0, 256, SIZE, dtype=np.uint8)
    np.frombuffer(region.memory, np.uint8)[:] = content
    prepare(region, spec, Solo(), first_touch=0)
    assert np.array_equal(np.frombuffer(region.memory, np.uint8), content)
    region.close()


def test_a_refused_hint_is_on_record_in_every_rank() -> None:
    kind = REGIONS.get("mp_shm")
    as_small, as_huge = RegionSpec(PAGE_BYTES, "prefault"), RegionSpec(PAGE_BYTES, "thp")

    def use(group: ProcessGroup, region: Region) -> bytes:
        # No huge page fits into this mapping.
        return msgspec.json.encode(prepare(region, as_huge, group, first_touch=0)["refused"])

    answers = in_ranks(kind, 2, use, as_small)
    assert answers[0] == answers[1]
    refusal = {
        "hint": "MADV_COLLAPSE",
        "errno": errno.EINVAL,
        "message": os.strerror(errno.EINVAL),
    }
    assert msgspec.json.decode(answers[0])[-1] == {"rank": 1, **refusal}


def test_the_file_system_behind_a_file_is_named() -> None:
    for directory in default_directories():
        region = open_alone(REGIONS.get("file"), RegionSpec(SIZE, directory=directory))
        mount = mount_of(directory)
        assert mount is not None
        found = evidence(region)
        region.close()
        if Path(mount.point).stat().st_dev == Path(directory).stat().st_dev:
            assert found["filesystem"] == mount.filesystem
            assert found["mount_options"] == mount.options


@pytest.mark.parametrize("name", ["anonymous", "memfd"])
def test_memory_without_a_name_is_on_no_file_system(name: str) -> None:
    region = open_alone(REGIONS.get(name), RegionSpec(SIZE))
    assert evidence(region)["filesystem"] is None
    region.close()


def test_a_never_written_buffer_reads_the_page_of_zeros() -> None:
    buffer = PrivateBuffer(SIZE, "untouched")
    assert counted(evidence_of(buffer.address, SIZE), "present_pages") == 0
    assert touch_read(buffer.address, SIZE) == 0
    assert counted(evidence_of(buffer.address, SIZE), "zero_pages") == WHOLE
    buffer.close()


@pytest.mark.parametrize("pages", ["prefault", "thp", "hugetlb"])
def test_a_prepared_buffer_has_pages_of_its_own_that_are_not_zero(pages: Pages) -> None:
    buffer = PrivateBuffer(SIZE, pages)
    assert len(buffer.memory) == SIZE
    assert np.frombuffer(buffer.memory, np.uint8).all()
    found = evidence_of(buffer.address, SIZE)
    assert found["present_pages"] == WHOLE
    assert found["zero_pages"] in (0, None)
    if pages == "prefault":
        assert found["huge_bytes"] == 0
        assert buffer.address % PAGE_BYTES == 0
    else:
        assert found["huge_bytes"] == HUGE or buffer.refused
        assert buffer.address % (2 << 20) == 0
    buffer.close()
    buffer.close()


def test_a_buffers_evidence_is_its_own_among_neighbours() -> None:
    buffers = [PrivateBuffer(PAGE_BYTES * 4, "prefault") for _ in range(3)]
    neighbour = Mapping(PAGE_BYTES * 4, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    found = evidence_of(buffers[1].address, PAGE_BYTES * 4)
    assert found["mapped_bytes"] == PAGE_BYTES * 4
    neighbour.close()
    for buffer in buffers:
        buffer.close()


def test_arrays_outlive_a_closed_buffer() -> None:
    buffer = PrivateBuffer(SIZE, "prefault")
    array = np.frombuffer(buffer.memory, np.uint8)
    buffer.close()
    assert array.all()
    assert len(buffer.memory) == 0


def test_smaps_is_read_with_its_odd_paths_and_lines() -> None:
    heap, shared, guard = parse(SMAPS.splitlines(keepends=True))
    assert (heap.path, heap.device) == ("[heap]", 0)
    assert heap.bytes_of["Rss"] == 8192
    assert (shared.start, shared.end) == (0x7F1B40000000, 0x7F1B40400000)
    assert shared.path == "/dev/shm/a b (deleted)"
    assert shared.device == os.makedev(0xFE, 1)
    assert shared.bytes_of["ShmemPmdMapped"] == 2 << 20
    assert shared.bytes_of["KernelPageSize"] == 2 << 20
    assert (guard.path, guard.bytes_of) == ("", {"Rss": 0})


def test_a_path_is_on_the_innermost_mount() -> None:
    proc = mount_of("/proc/self/status")
    assert proc is not None
    assert (proc.point, proc.filesystem) == ("/proc", "proc")
    assert not proc.in_memory
    root = mount_of("/procession")
    assert root is not None
    assert root.point == "/"
