"""Names, pools of huge pages and NUMA nodes: the rules, on trees of files made for the purpose."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shmbench.errors import Unavailable
from shmbench.native.memory import MPOL_BIND, MPOL_INTERLEAVE
from shmbench.regions import hugepages, names, numa


def test_names_tell_whose_they_are() -> None:
    assert names.parse_name(names.fresh_name()) == (os.getuid(), os.getpid())
    assert names.parse_name(names.fresh_name(pid=7)) == (os.getuid(), 7)
    assert names.parse_name("sem." + names.fresh_name(pid=7)) == (os.getuid(), 7)
    assert names.fresh_name() != names.fresh_name()


@pytest.mark.parametrize("name", ["", "shmbench", "shmbench-1-2-3", "xshmbench-1-2-" + "0" * 16])
def test_other_names_are_not_ours(name: str) -> None:
    assert names.parse_name(name) is None
    assert not names.is_stale(name)


def test_a_name_is_stale_when_its_process_is_gone_and_its_user_is_this_one() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert names.is_stale(names.fresh_name(pid=child.pid))
    assert not names.is_stale(names.fresh_name())
    assert not names.is_stale(names.fresh_name(pid=1))
    assert not names.is_stale(f"shmbench-{os.getuid() + 1}-{child.pid}-{'0' * 16}")


def test_a_directory_that_can_not_be_read_has_no_stale_names() -> None:
    assert names.stale_names(Path("/nowhere")) == []


def pool(root: Path, page_bytes: int, total: int, free: int, promised: int = 0) -> None:
    folder = root / f"hugepages-{page_bytes >> 10}kB"
    folder.mkdir()
    (folder / "nr_hugepages").write_text(f"{total}\n")
    (folder / "free_hugepages").write_text(f"{free}\n")
    (folder / "resv_hugepages").write_text(f"{promised}\n")


def test_pages_of_1_gib_are_taken_where_the_size_wants_them_and_there_are_enough(
    tmp_path: Path,
) -> None:
    pool(tmp_path, 2 << 20, total=0, free=0)
    pool(tmp_path, 1 << 30, total=4, free=3, promised=1)
    assert hugepages.page_bytes_for(1 << 30, tmp_path) == 1 << 30
    assert hugepages.page_bytes_for(2 << 30, tmp_path) == 1 << 30
    assert hugepages.page_bytes_for((2 << 30) + 1, tmp_path) == 2 << 20
    assert hugepages.page_bytes_for((1 << 30) - 1, tmp_path) == 2 << 20
    assert hugepages.page_bytes_for(1 << 30, tmp_path / "none") == 2 << 20


def test_a_shortage_names_the_knob_and_what_to_set_it_to(tmp_path: Path) -> None:
    pool(tmp_path, 2 << 20, total=10, free=4, promised=3)
    assert str(hugepages.shortage("hugetlb", 7 << 20, tmp_path)) == (
        "hugetlb: huge pages of 2 MiB: 4 wanted, 1 free (vm.nr_hugepages = 10); "
        "reserve some (as root): sysctl vm.nr_hugepages=13"
    )
    assert "this kernel has no 2 MiB" in str(hugepages.shortage("x", 1, tmp_path / "none"))


def test_the_kernels_list_of_nodes_is_read(tmp_path: Path) -> None:
    listing = tmp_path / "online"
    listing.write_text("0-2,5\n")
    assert numa.online_nodes(listing) == [0, 1, 2, 5]
    assert numa.online_nodes(tmp_path / "none") == [0]


def test_placements_become_policies() -> None:
    assert numa.policy("local", [0]) is None
    assert numa.policy("interleave", [0, 3]) == (MPOL_INTERLEAVE, [0, 3])
    assert numa.policy("bind:3", [0, 3]) == (MPOL_BIND, [3])
    with pytest.raises(Unavailable, match="node 2 isn't there; choose one of: 0, 3"):
        numa.policy("bind:2", [0, 3])
    with pytest.raises(Unavailable, match="one node only"):
        numa.policy("interleave", [0])
