"""The doctor: every bad state is noticed, priced and comes with its cure."""

from __future__ import annotations

import errno
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_node import write, write_cpus

from shmbench import doctor
from shmbench.doctor import Check, cpu, kernel, kinds, memory, now
from shmbench.errors import Unavailable
from shmbench.machine import facts
from shmbench.measure.placement import read_topology
from shmbench.registry import Registry

CPUS = "sys/devices/system/cpu"


def by_name(found: list[Check]) -> dict[str, Check]:
    assert len({check.name for check in found}) == len(found), "two checks of one name"
    for check in found:
        cured = bool(check.cost) and bool(check.remedy)
        assert cured == (check.status in ("warn", "missing")), check
    return {check.name: check for check in found}


def examine(root: Path) -> dict[str, Check]:
    """The checks that only read files, for a fake node whose CPUs are all allowed."""
    found = facts(root)
    topology = read_topology(root / "sys", set(range(64)))
    return by_name(cpu.cpu_checks(found, topology) + memory.memory_checks(found, root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A quiet server, well set up: two cores, performance governor, huge pages, no swap."""
    write_cpus(tmp_path / "sys", [[0], [1]], l3=[[0, 1]], nodes=[[0, 1]])
    cpus = tmp_path / CPUS
    for number in (0, 1):
        write(cpus / f"cpu{number}/cpufreq/scaling_governor", "performance")
        write(cpus / f"cpu{number}/cpufreq/scaling_driver", "acpi-cpufreq")
    write(cpus / "cpufreq/boost", 0)
    clocks = tmp_path / "sys/devices/system/clocksource/clocksource0"
    write(clocks / "current_clocksource", "tsc")
    mm = tmp_path / "sys/kernel/mm"
    write(mm / "transparent_hugepage/enabled", "[always] madvise never")
    write(mm / "transparent_hugepage/shmem_enabled", "always within_size [advise] never deny force")
    write(mm / "hugepages/hugepages-2048kB/nr_hugepages", 64)
    write(tmp_path / "proc/meminfo", "MemTotal: 16000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB")
    write(tmp_path / "proc/cpuinfo", "model name\t: Fast CPU\nflags\t: fpu")
    write(tmp_path / "proc/sys/kernel/numa_balancing", 1)
    write(tmp_path / "proc/self/cgroup", "0::/")
    for key, value in memory.QUEUE_DEFAULTS.items():
        write(tmp_path / "proc/sys/fs/mqueue" / key, value)
    (tmp_path / "dev/shm").mkdir(parents=True)
    return tmp_path


def test_a_node_that_is_well_set_up_has_nothing_to_cure(root: Path) -> None:
    found = examine(root)
    limits = {name for name in found if name.startswith("limit: ")} | {"/dev/shm", "clock"}
    assert {name for name, check in found.items() if check.cost} <= limits
    assert found["cpus"].found == (
        "Fast CPU; allowed: 2 of 2 CPUs (0-1), "
        "cores: 2, last-level caches: 1, packages: 1, nodes: 1"
    )
    assert found["caches"].found == "L1d 32 KiB, L2 1 MiB, L3 32 MiB"
    assert found["placements"].found == "same_cpu (0,0), l3 (0,1); not here: smt, node, cross_node"


@pytest.mark.parametrize(
    ("path", "text", "name", "status", "remedy"),
    [
        (f"{CPUS}/cpu0/cpufreq/scaling_governor", "powersave", "governor", "warn", "cpupower"),
        (f"{CPUS}/cpufreq/boost", "1", "boost", "warn", "cpufreq/boost"),
        (f"{CPUS}/intel_pstate/no_turbo", "0", "boost", "warn", "echo 0 >"),
        ("sys/devices/system/node/node1/cpulist", "", "numa balancing", "warn", "numa_balancing=0"),
        ("sys/fs/cgroup/cpu.max", "100000 100000", "cpu quota", "warn", "cpu.max = max"),
        ("proc/meminfo", "SwapTotal: 10 kB\nSwapFree: 4 kB", "swap", "warn", "swapoff"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always madvise [never]",
            "thp",
            "missing",
            "echo madvise",
        ),
        (
            "sys/kernel/mm/transparent_hugepage/shmem_enabled",
            "always within_size advise [never] deny force",
            "thp for shared memory",
            "missing",
            "echo advise",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "0",
            "huge pages",
            "missing",
            "sysctl vm.nr_hugepages",
        ),
        (
            "proc/sys/fs/mqueue/msgsize_max",
            "1024",
            "posix message queues",
            "warn",
            "fs.mqueue.msgsize_max=8192",
        ),
    ],
)
def test_a_bad_setting_is_noticed(
    root: Path, path: str, text: str, name: str, status: str, remedy: str
) -> None:
    before = examine(root)
    write(root / path, text)
    after = examine(root)
    assert not before[name].cost
    assert after[name].status == status
    assert remedy in str(after[name].remedy)


def test_siblings_are_noticed(root: Path) -> None:
    write_cpus(root / "sys", [[0, 1]])
    assert examine(root)["smt"].status == "warn"


def test_a_single_cpu_is_noticed(root: Path) -> None:
    check = cpu.cpus(facts(root), read_topology(root / "sys", {1}))
    assert check.status == "warn"
    assert "allowed: 1 of 2 CPUs (1)" in check.found


def test_the_turbo_of_intel_is_switched_off_where_it_has_its_switch() -> None:
    check = cpu.boost({"boost": True, "frequency_driver": "intel_pstate"})
    assert "no_turbo" in str(check.remedy)


def test_a_clock_that_is_slow_to_read_is_noticed() -> None:
    assert cpu.clock({"clock_source": "tsc"}, 25.0, 20).status == "ok"
    slow = cpu.clock({"clock_source": "hpet"}, 850.0, 70)
    assert (slow.status, slow.found) == ("warn", "hpet: 850 ns a read, steps of 70 ns")


def test_a_guest_is_told_of_its_host() -> None:
    assert cpu.virtualization({"hypervisor": "none"}).status == "ok"
    assert "guest of kvm" in cpu.virtualization({"hypervisor": "kvm"}).found


def test_a_memory_limit_below_the_memory_is_shown(root: Path) -> None:
    write(root / "sys/fs/cgroup/memory.max", 2**30)
    assert "the cgroup may use 1 GiB" in examine(root)["memory"].found


def test_a_kernel_that_pages_out_what_is_idle_is_noticed(root: Path) -> None:
    assert examine(root)["proactive reclaim"].status == "ok"
    daemon = root / "sys/kernel/mm/damon/admin/kdamonds/0"
    write(daemon / "contexts/0/schemes/0/action", "pageout")
    write(daemon / "contexts/0/schemes/0/access_pattern/age/min", 12)
    write(daemon / "contexts/0/monitoring_attrs/intervals/aggr_us", 5_000_000)
    write(daemon / "state", "off")
    assert examine(root)["proactive reclaim"].status == "ok"
    write(daemon / "state", "on")
    found = examine(root)["proactive reclaim"]
    assert (found.status, found.found) == ("warn", "DAMON pages out what is idle for 60 s")
    assert str(found.remedy).endswith("echo off > /sys/kernel/mm/damon/admin/kdamonds/0/state")


def test_the_kernels_own_damon_module_is_noticed(root: Path) -> None:
    module = root / "sys/module/damon_reclaim/parameters"
    write(module / "enabled", "Y")
    write(module / "min_age", 120_000_000)
    found = examine(root)["proactive reclaim"]
    assert (found.status, found.found) == ("warn", "DAMON_RECLAIM pages out what is idle for 120 s")
    write(module / "enabled", "N")
    assert examine(root)["proactive reclaim"].status == "ok"


def test_a_small_or_absent_dev_shm_is_noticed(root: Path) -> None:
    docker = {"shm_bytes": 64 * 2**20, "shm_free_bytes": 64 * 2**20}
    assert "--shm-size" in str(memory.dev_shm(docker).remedy)
    (root / "dev/shm").rmdir()
    assert examine(root)["/dev/shm"].status == "missing"


def test_limits_that_are_too_low_are_noticed() -> None:
    assert memory.descriptors(256).remedy == "ulimit -n 1024"
    assert memory.queue_bytes(81920).remedy == "ulimit -q 819200"
    for check in (memory.descriptors, memory.queue_bytes, memory.locked_memory):
        assert check(resource.RLIM_INFINITY).found == "unlimited"
    assert memory.locked_memory(8 * 2**20) == Check("limit: locked memory", "info", "8 MiB")


def test_a_node_that_tells_nothing_is_examined_all_the_same(tmp_path: Path) -> None:
    found = examine(tmp_path)
    assert found["governor"].status == "info"
    assert found["boost"].status == "info"
    for name in ("thp", "thp for shared memory", "huge pages", "posix message queues", "/dev/shm"):
        assert found[name].status == "missing"
    assert "CONFIG_POSIX_MQUEUE" in str(found["posix message queues"].remedy)


PROC_STAT = """cpu  400 0 0 400 0 0 0 0 0 0
cpu0 {busy} 0 0 {idle} 0 0 0 {steal} 7 0
cpu2 0 0 0 400 0 0 0 0 0 0
intr 1 2 3"""


def ticks(root: Path, busy: int, idle: int, steal: int) -> dict[int, now.Ticks]:
    write(root / "proc/stat", PROC_STAT.format(busy=busy, idle=idle, steal=steal))
    return now.read_ticks(root)


def test_steal_and_load_of_each_allowed_cpu_are_noticed(tmp_path: Path) -> None:
    before, after = ticks(tmp_path, 100, 100, 0), ticks(tmp_path, 115, 110, 5)
    shares = now.cpu_shares(before, after, {0, 2})
    assert shares == {0: (0.5, pytest.approx(1 / 6)), 2: (0.0, 0.0)}
    assert now.load(shares).found == "CPU 0 50%, CPU 2 0%"
    assert (now.load(shares).status, now.steal(shares).status) == ("warn", "warn")
    idle = now.cpu_shares(before, after, {2})
    assert (now.load(idle).status, now.steal(idle).status) == ("ok", "ok")


def test_without_proc_stat_load_is_unknown(tmp_path: Path) -> None:
    assert now.load(now.cpu_shares(now.read_ticks(tmp_path), {}, {0})).found == "unknown"


def test_the_busiest_strangers_are_named() -> None:
    busy = [now.Stranger(pid, f"hog{pid}", 0, pid / 10) for pid in range(1, 7)]
    check = now.strangers(busy)
    assert check.found == (
        "hog6 (pid 6) 60% on CPU 0, hog5 (pid 5) 50% on CPU 0, hog4 (pid 4) 40% on CPU 0 and 2 more"
    )
    assert now.strangers(busy[:1]).status == "ok"


@pytest.fixture
def hog() -> Iterator[int]:
    """A real process that spins, and ends by itself should nobody end it."""
    end = time.monotonic() + 20
    child = os.fork()
    if child == 0:
        try:
            while time.monotonic() < end:
                pass
        finally:
            os._exit(0)
    yield child
    os.kill(child, 9)
    os.waitpid(child, 0)


def test_a_process_that_spins_is_found_with_its_share(hog: int) -> None:
    before, start = now.read_use(), time.monotonic()
    while now.read_use()[hog].seconds < before[hog].seconds + 0.1:
        assert time.monotonic() < start + 15
        time.sleep(0.02)
    found = now.find_strangers(before, now.read_use(), time.monotonic() - start)
    shares = {stranger.pid: stranger.share for stranger in found}
    assert 0 < shares[hog] < 1.5
    assert os.getpid() not in shares


def failing(code: int) -> Check:
    def probe() -> None:
        raise OSError(code, os.strerror(code))

    return kernel.check(kernel.Feature("f", "9.9", probe, "the cost", "the remedy"))


def test_a_feature_that_the_kernel_lacks_wants_a_newer_one() -> None:
    check = failing(errno.ENOSYS)
    assert (check.status, check.cost) == ("missing", "the cost")
    assert "Linux 9.9" in str(check.remedy)


def test_a_feature_that_is_refused_wants_its_permission() -> None:
    check = failing(errno.EPERM)
    assert check.found == "EPERM: Operation not permitted"
    assert check.remedy == "the remedy"


def test_an_architecture_without_known_numbers_is_not_probed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel.platform, "machine", lambda: "vax")
    feature = next(one for one in kernel.FEATURES if one.name == "userfaultfd")
    assert "not probed on vax" in kernel.check(feature).found


def test_probing_the_kernel_leaves_no_descriptor_and_no_child() -> None:
    def held() -> tuple[int, str]:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return len(list(Path("/proc/self/fd").iterdir())), children

    kernel.kernel_checks()
    before = held()
    found = by_name(kernel.kernel_checks())
    assert held() == before
    assert found["memfd"].status == "ok"


class Works:
    @classmethod
    def probe(cls) -> Unavailable | None:
        return None


class Lacks:
    @classmethod
    def probe(cls) -> Unavailable | None:
        return Unavailable("lacks: no such thing", "buy one")


class Breaks:
    @classmethod
    def probe(cls) -> Unavailable | None:
        raise RuntimeError("oh")


def test_each_kind_is_asked_and_none_stops_the_others() -> None:
    registry: Registry[Any] = Registry(
        "region",
        {name: f"{__name__}:{name}" for name in ("Works", "Lacks", "Breaks")}
        | {"Absent": "no_such_package:Region"},
    )
    found = by_name([kinds.probe(registry, name) for name in registry.names()])
    assert found["region Works"].status == "ok"
    assert found["region Lacks"].remedy == "buy one"
    assert found["region Breaks"].found == "its probe failed with RuntimeError: oh"
    assert "no_such_package" in found["region Absent"].found


def test_the_doctor_examines_this_machine() -> None:
    checks = doctor.checks(sample_s=0.05)
    found = by_name(checks)
    for name in ("cpus", "clock", "thp", "load now", "io_uring", "region memfd"):
        assert name in found
    assert json.loads(json.dumps(doctor.as_dicts(checks)))[0]["name"] == checks[0].name
    assert len(doctor.lines(checks)) == len(checks)
    assert not [line for line in doctor.lines(checks) if "\n" in line]


def test_a_line_tells_cost_and_remedy_where_there_is_something_to_cure() -> None:
    assert doctor.lines(
        [Check("smt", "ok", "off"), Check("swap", "warn", "1 GiB", "faults", "off")]
    ) == [
        "ok      smt: off",
        "warn    swap: 1 GiB; cost: faults; remedy: off",
    ]
