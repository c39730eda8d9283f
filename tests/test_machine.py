"""The facts of a machine, and what they mean for comparing two."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_node import write, write_cpus
from hypothesis import given, settings
from hypothesis import strategies as st

from shmbench.machine import FACTS, changes, differences, facts, show


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A laptop: two cores with two siblings each, powersave, turbo, huge pages, cgroup v2."""
    cpus = tmp_path / "sys/devices/system/cpu"
    write_cpus(tmp_path / "sys", [[0, 2], [1, 3]], l3=[range(4)], nodes=[range(4)])
    for cpu in range(4):
        write(cpus / f"cpu{cpu}/cpufreq/scaling_governor", "powersave")
        write(cpus / f"cpu{cpu}/cpufreq/scaling_driver", "intel_pstate")
    write(cpus / "intel_pstate/no_turbo", 0)
    write(cpus / "vulnerabilities/meltdown", "Not affected")
    write(cpus / "vulnerabilities/spectre_v2", "Mitigation: IBRS")
    memory = tmp_path / "sys/kernel/mm"
    write(memory / "transparent_hugepage/enabled", "always [madvise] never")
    write(memory / "hugepages/hugepages-2048kB/nr_hugepages", 64)
    write(
        tmp_path / "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: Fast CPU\nmicrocode\t: 0xf4\nflags\t\t: fpu sse",
    )
    write(tmp_path / "proc/meminfo", "MemTotal:       16000000 kB\nSwapTotal:       2000 kB")
    write(tmp_path / "proc/loadavg", "0.50 0.25 0.10 1/234 567")
    write(tmp_path / "proc/self/cgroup", "0::/user.slice/job")
    write(tmp_path / "sys/fs/cgroup/user.slice/job/memory.max", "max")
    write(tmp_path / "sys/fs/cgroup/user.slice/memory.max", 4 * 2**30)
    write(tmp_path / "sys/fs/cgroup/user.slice/job/cpu.max", "150000 100000")
    return tmp_path


def test_the_facts_of_a_laptop_are_read_from_its_files(root: Path) -> None:
    found = facts(root)
    expected = {
        "cpu_model": "Fast CPU",
        "cpus_online": 4,
        "cores": 2,
        "smt_active": True,
        "l1d_bytes": 32 * 1024,
        "l2_bytes": 2**20,
        "l3_bytes": 2**25,
        "numa_nodes": 1,
        "memory_bytes": 16000000 * 1024,
        "swap_bytes": 2000 * 1024,
        "hypervisor": "none",
        "governor": "powersave",
        "frequency_driver": "intel_pstate",
        "boost": True,
        "microcode": "0xf4",
        "mitigations": {"spectre_v2": "Mitigation: IBRS"},
        "thp_enabled": "madvise",
        "thp_shmem_enabled": None,
        "huge_pages": {"2048kB": 64},
        "cgroup_memory_bytes": 4 * 2**30,
        "cgroup_cpus": 1.5,
        "load_average": [0.5, 0.25, 0.1],
    }
    assert {key: found[key] for key in expected} == expected


def test_limits_of_cgroup_v1_are_read_where_a_container_mounts_only_its_own(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/docker/12ab\n3:cpu,cpuacct:/docker/12ab\n0::/")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", 2**30)
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", 50000)
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100000)
    found = facts(tmp_path)
    assert (found["cgroup_memory_bytes"], found["cgroup_cpus"]) == (2**30, 0.5)


def test_no_limit_of_cgroup_v1_is_none(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/\n3:cpu:/")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1)
    found = facts(tmp_path)
    assert (found["cgroup_memory_bytes"], found["cgroup_cpus"]) == (None, None)


def test_an_aarch64_cpu_without_a_name_is_known_by_its_numbers(tmp_path: Path) -> None:
    write(tmp_path / "proc/cpuinfo", "CPU implementer\t: 0x41\nCPU part\t: 0xd0c")
    found = facts(tmp_path)
    assert found["cpu_model"] == "implementer 0x41 part 0xd0c"
    assert found["hypervisor"] is None


def test_a_guest_without_kvm_clock_is_known_by_its_firmware(tmp_path: Path) -> None:
    write(tmp_path / "proc/cpuinfo", "flags\t\t: fpu hypervisor")
    assert facts(tmp_path)["hypervisor"] == "unknown"
    write(tmp_path / "sys/class/dmi/id/sys_vendor", "VMware, Inc.")
    assert facts(tmp_path)["hypervisor"] == "VMware, Inc."


def test_where_nothing_can_be_read_the_facts_are_none_and_nothing_is_raised(tmp_path: Path) -> None:
    found = facts(tmp_path / "nowhere")
    assert list(found) == list(FACTS)
    for key in ("cpu_model", "memory_bytes", "shm_bytes", "load_average", "cgroup_cpus"):
        assert found[key] is None
        assert show(key, found[key]) == "unknown"


@pytest.mark.parametrize("text", ["", "\0\n", "garbage\n[", "-1 -1 -1", "a:b"])
def test_files_full_of_garbage_raise_nothing(root: Path, text: str) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            path.write_text(text)
    assert list(facts(root)) == list(FACTS)


def test_every_fact_of_this_machine_has_its_type_and_goes_through_json() -> None:
    found = facts()
    for key, value in found.items():
        assert value is None or isinstance(value, FACTS[key].type), key
        assert show(key, value)
    assert found["hostname"] == platform.node()
    assert found["page_bytes"] == os.sysconf("SC_PAGESIZE")
    assert found["memory_bytes"] > 0
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_bytes_and_switches_are_shown_for_people() -> None:
    assert show("l3_bytes", 2**25) == "32 MiB"
    assert show("memory_bytes", 25276514304) == "23.5 GiB"
    assert show("smt_active", True) == "on"
    assert show("huge_pages", {"2048kB": 3}) == "2048kB: 3"
    assert show("written_by_a_later_version", 7) == "7"
    assert show("l3_bytes", "of another type") == "of another type"


def test_other_hardware_is_another_machine_and_names_the_hosts() -> None:
    base = {"hostname": "a", "cpu_model": "X", "l3_bytes": 2**25, "kernel": "6.1"}
    new = {"hostname": "b", "cpu_model": "Y", "l3_bytes": 2**26, "kernel": "6.2"}
    assert differences(base, new) == [
        "hostname: a / b",
        "cpu_model: X / Y",
        "l3_bytes: 32 MiB / 64 MiB",
    ]


def test_the_same_host_name_does_not_make_two_machines_one() -> None:
    assert differences({"hostname": "a", "cores": 4}, {"hostname": "a", "cores": 8}) == [
        "cores: 4 / 8"
    ]


def test_another_host_name_alone_is_a_change_and_not_another_machine() -> None:
    base, new = {"hostname": "a", "cores": 4}, {"hostname": "b", "cores": 4}
    assert differences(base, new) == []
    assert changes(base, new) == ["hostname: a / b"]


def test_what_one_side_does_not_know_decides_nothing() -> None:
    assert differences({"l3_bytes": None, "cores": 4}, {"l3_bytes": 2**25}) == []


def test_memory_that_a_kernel_keeps_to_itself_is_no_difference() -> None:
    base = {"memory_bytes": 16_000_000_000}
    assert differences(base, {"memory_bytes": 15_900_000_000}) == []
    assert differences(base, {"memory_bytes": 8_000_000_000}) != []


def test_upgrades_are_changes_entry_by_entry() -> None:
    base: dict[str, Any] = {
        "kernel": "6.1",
        "mitigations": {"a": "none", "b": "same"},
        "cgroup_cpus": None,
        "numpy": "2.0",
        "load_average": [1.0],
    }
    new: dict[str, Any] = {
        "kernel": "6.2",
        "mitigations": {"a": "on", "b": "same", "c": "new"},
        "cgroup_cpus": 2.0,
        "load_average": [2.0],
    }
    assert changes(base, new) == [
        "kernel: 6.1 / 6.2",
        "mitigations a: none / on",
        "mitigations c: none / new",
        "cgroup_cpus: unknown / 2.0",
    ]


MACHINES = st.dictionaries(
    st.sampled_from(list(FACTS)), st.sampled_from([None, 1, 2, "a", {"b": 1}, {"c": 2}])
)


@settings(deadline=None)
@given(MACHINES, MACHINES)
def test_comparing_finds_nothing_in_oneself_and_the_same_in_both_directions(
    base: dict[str, Any], new: dict[str, Any]
) -> None:
    assert differences(base, base) == changes(base, base) == []
    assert len(differences(base, new)) == len(differences(new, base))
    assert len(changes(base, new)) == len(changes(new, base))


def test_importing_the_facts_imports_nothing_for_show() -> None:
    code = (
        "import sys, shmbench.machine;"
        "print([m for m in ('rich', 'click', 'mpi4py', 'jinja2', 'plotly') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"
