"""Workloads over files and mappings: each measured for real on small files, cold and warm."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from needs import need

from shmbench.clean import leftovers, remove
from shmbench.errors import UsageError
from shmbench.limits import limit_of
from shmbench.measure import cgroup
from shmbench.measure.eviction import evict
from shmbench.measure.flags import Flag
from shmbench.measure.placement import read_topology
from shmbench.measure.sampling import SamplingOptions
from shmbench.native import memory
from shmbench.regions.file import default_directories
from shmbench.regions.fixture import Fixtures
from shmbench.regions.mounts import mount_of
from shmbench.regions.names import fresh_name, parse_name
from shmbench.suites import SUITES, Selection, obstacle, plan
from shmbench.trial import Trial, run_trial
from shmbench.workloads import WORKLOADS, policies
from shmbench.workloads.policies import POLICIES, READING, KernelDefault

MIB = 1 << 20
BRIEF = SamplingOptions(batches=2, retries=0, warmup_batches=0, batch_s=0.001, group_s=0.05)
TOPOLOGY = read_topology()
IN_MEMORY = (*READING, "watch_userfaultfd")
READS = ("scan", "reverse", "strided", "streams", "random_read", "zipf")
MAPPINGS = ("first_touch", "map_unmap", "flush", "fork_cost", "shootdown", "read_vs_mmap", "reopen")


def disk() -> str:
    for directory in default_directories():
        mount = mount_of(directory)
        if mount is not None and not mount.in_memory:
            return directory
    need(False, "no writable directory on a disk", "make /var/tmp writable")
    raise AssertionError


@pytest.fixture(scope="module")
def fixtures():
    with Fixtures() as made:
        yield made


def cases_of(*, limits=False, **axes):
    """The cases of a selection, and of their limits where they are wanted."""
    axes.setdefault("file_sizes", (2 * MIB,))
    found = plan((Selection(**axes),), TOPOLOGY, asked_for=False).cases
    wanted = axes.get("policies") or IN_MEMORY
    return [case for case in found if limits or case.policy in (None, *wanted)]


def measured(case, fixtures):
    """A report of a brief trial; it must not have failed."""
    wanted = WORKLOADS.get(case.workload).fixture(case)
    cpus = tuple(cpu.number for cpu in TOPOLOGY.cpus)[: case.ranks]
    report = run_trial(Trial(case, cpus, BRIEF), fixtures.get(wanted) if wanted else None)
    assert report.failure is None, (case.label(), report.failure)
    assert report.value > 0
    return report


def check_reading(cases, fixtures):
    """Each of these cases has a figure, and began with the file as it should be."""
    for case in cases:
        report = measured(case, fixtures)
        if case.cache is None:
            continue  # the device itself, by fio: nothing is mapped
        if case.cache == "cold":
            assert report.counters["resident_pages_before"] == 0
            assert report.counters["device_read_bytes"] > 0
            assert Flag.NOT_EVICTED not in report.flags
        else:
            batches = report.counters["batches"]
            assert report.counters["resident_pages_before"] == batches * 2 * MIB // 4096
        assert report.evidence["filesystem"]


@pytest.mark.parametrize("workload", READS)
def test_every_policy_reads_the_right_bytes_cold_and_warm(workload, fixtures):
    cases = cases_of(workloads=(workload,), regions=("file",), driver="python", limits=True)
    cases = [
        case
        for case in cases
        if case.variant == WORKLOADS.get(workload).variants[0]
        and case.workload == workload
        and (case.cache == "cold" or case.directory != disk())
    ]
    assert {case.policy for case in cases} == {*IN_MEMORY, "mapped"}
    assert {case.policy for case in cases if case.cache == "cold"} == {*READING}
    check_reading(cases, fixtures)


def test_native_loops_read_the_same_bytes(fixtures):
    cases = cases_of(workloads=("scan",), regions=("file",), driver="native", caches=("warm",))
    check_reading([case for case in cases if case.variant == "all_bytes"], fixtures)


@pytest.mark.slow
@pytest.mark.parametrize("workload", READS)
def test_every_variant_driver_and_file_system_has_a_figure(workload, fixtures):
    # Each variant with the kernel's default, each policy with the first variant: they don't meet.
    first = WORKLOADS.get(workload).variants[0]
    cases = cases_of(workloads=(workload,))
    check_reading([c for c in cases if c.variant == first or c.policy == "none"], fixtures)


@pytest.mark.parametrize("workload", MAPPINGS)
def test_each_way_to_map_has_a_figure_on_each_region(workload, fixtures):
    cases = cases_of(workloads=(workload,))
    variants = {case.variant for case in cases}
    assert variants == set(WORKLOADS.get(workload).variants)
    for case in cases:
        measured(case, fixtures)


def test_ranks_that_read_one_file_at_once_all_count(fixtures):
    need(len(TOPOLOGY.cpus) > 1, "one CPU only", "allow the tests more CPUs")
    cold, warm = (
        cases_of(workloads=("random_read",), ranks=2, policies=("none",), caches=(cache,))[0]
        for cache in ("cold", "warm")
    )
    assert cold.ranks == warm.ranks == 2
    measured(cold, fixtures)
    assert measured(warm, fixtures).counters["resident_pages_before"] > 0


def test_pages_that_were_fetched_and_never_used_are_counted(fixtures):
    counters = {}
    for policy in ("populate", "random"):
        cases = cases_of(
            workloads=("strided",), policies=(policy,), caches=("cold",), file_sizes=(16 * MIB,)
        )
        case = next(case for case in cases if case.variant == "1M")
        counters[policy] = measured(case, fixtures).counters
    assert counters["populate"]["pages_never_used"] == 16 * 255 * counters["populate"]["batches"]
    assert counters["random"]["pages_never_used"] == 0


def test_what_has_to_be_read_in_before_a_warm_pass_is_counted(fixtures):
    case = cases_of(
        workloads=("strided",), policies=("none",), caches=("warm",), directories=(disk(),)
    )[0]
    fixture = fixtures.get(WORKLOADS.get("strided").fixture(case))
    assert evict(fixture.fd, fixture.size_bytes).proven
    counters = measured(case, fixtures).counters
    assert counters["pages_read_in_at_first"] == 2 * MIB // 4096
    assert counters.get("pages_read_in_again", 0) == 0
    assert measured(case, fixtures).counters.get("pages_read_in_at_first", 0) == 0


class Careless(KernelDefault):
    """A policy that reads the wrong pages."""

    name = "careless"
    summary = "wrong"

    def read(self, consumer):
        for offset in reversed(self.offsets):
            consumer.take(self._view[offset : offset + self.target.length])


def test_a_policy_that_reads_other_bytes_gives_no_figure(fixtures, monkeypatch):
    monkeypatch.setattr(policies, "Careless", Careless, raising=False)
    monkeypatch.setitem(POLICIES._targets, "careless", "shmbench.workloads.policies:Careless")
    for cache in ("cold", "warm"):
        case = cases_of(workloads=("scan",), policies=("none",), caches=(cache,), driver="python")
        wrong = msgspec.structs.replace(case[0], policy="careless")
        fixture = fixtures.get(WORKLOADS.get("scan").fixture(wrong))
        report = run_trial(Trial(wrong, (TOPOLOGY.cpus[0].number,), BRIEF), fixture)
        assert report.failure is not None
        assert report.failure.type == "ValidationFailed"
        assert "than by pread" in report.failure.message


def test_a_file_that_somebody_keeps_mapped_is_flagged_as_not_cold(fixtures):
    case = cases_of(workloads=("scan",), policies=("none",), caches=("cold",), driver="python")[0]
    fixture = fixtures.get(WORKLOADS.get("scan").fixture(case))
    with mmap.mmap(fixture.fd, fixture.size_bytes, prot=mmap.PROT_READ) as mapped:
        memory.touch_read(memory.address_of(mapped), fixture.size_bytes)
        report = measured(case, fixtures)
    assert Flag.NOT_EVICTED in report.flags
    assert report.evidence["not_evicted_batches"] > 0


def test_a_cold_file_in_memory_is_refused_with_the_reason():
    case = next(
        case for case in cases_of(workloads=("scan",), policies=("none",), caches=("cold",))
    )
    directory = "/dev/shm"
    need(Path(directory).is_dir(), "no /dev/shm", "mount tmpfs there")
    chosen = plan(
        (Selection(("scan",), caches=("cold",), directories=(directory,)),),
        TOPOLOGY,
        asked_for=False,
    )
    assert chosen.cases == []
    assert all("never cold" in str(why) for why in chosen.left_out.values())
    assert obstacle(case, TOPOLOGY) is None


def test_a_memfd_is_never_asked_to_be_cold():
    cases = cases_of(workloads=("scan",), regions=("memfd",))
    assert {case.cache for case in cases} == {"warm"}


def test_the_limit_of_a_warm_case_is_the_mapping_that_is_there_and_of_an_unordered_one_the_disk():
    by_label = {
        (case.workload, case.cache): limit_of(case)
        for case in cases_of(workloads=("scan", "random_read"), policies=("none",))
    }
    assert by_label["scan", "warm"].case.policy == "mapped"
    assert by_label["scan", "cold"] is None
    assert by_label["random_read", "cold"].case.workload == "device"


def test_without_fio_the_limit_is_left_out_and_that_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    chosen = plan(
        (Selection(("random_read",), policies=("none",), caches=("cold",), directories=(disk(),)),),
        TOPOLOGY,
        asked_for=True,
    )
    assert {case.workload for case in chosen.cases} == {"random_read"}
    assert "fio" in " ".join(map(str, chosen.left_out.values()))


def test_over_memory_reads_in_a_cgroup_of_its_own_that_is_gone_afterwards(fixtures):
    why = cgroup.probe()
    need(why is None, str(why), "run the tests as root on a machine with memory cgroups")
    hierarchy = cgroup.find_hierarchy()
    assert hierarchy is not None
    before = {path.name for path in hierarchy.root.iterdir()}
    own = Path("/proc/self/cgroup").read_text()
    case = cases_of(workloads=("over_memory",), policies=("none",), file_sizes=(64 * MIB,))[0]
    report = measured(case, fixtures)
    assert report.counters["workingset_refault_file"] > 0
    assert report.evidence["memory_limit_bytes"] == 32 * MIB
    assert {path.name for path in hierarchy.root.iterdir()} == before
    assert Path("/proc/self/cgroup").read_text() == own


def test_a_cgroup_that_a_killed_run_left_is_found_and_removed():
    why = cgroup.probe()
    need(why is None, str(why), "run the tests as root on a machine with memory cgroups")
    hierarchy = cgroup.find_hierarchy()
    assert hierarchy is not None
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    left = hierarchy.root / fresh_name(child)
    left.mkdir()
    assert left in leftovers()
    remove([left])
    assert not left.exists()


def test_no_memory_controller_is_a_reason_and_not_an_error(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text("tmpfs /tmp tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n")
    assert cgroup.find_hierarchy(mounts) is None
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    mounts.write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    assert cgroup.find_hierarchy(mounts) == cgroup.Hierarchy(tmp_path, 2)
    mounts.write_text(f"cgroup {tmp_path} cgroup rw,memory 0 0\n")
    assert cgroup.find_hierarchy(mounts) == cgroup.Hierarchy(tmp_path, 1)


def test_the_suite_has_every_order_with_every_policy():
    cases = plan(SUITES["policy"].selections, TOPOLOGY, asked_for=False).cases
    seen = {(case.workload, case.policy) for case in cases if case.driver == "python"}
    assert seen >= {(workload, policy) for workload in READS for policy in READING}
    assert len(cases) == len(set(cases))
    assert {case.ranks for case in cases} == {1}


def start_a_run(directory):
    """A run that has a file with a name in the directory; the process, and the file."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "shmbench", "run", "--workload", "reopen", "--cache", "warm"),
            *("--file-size", "1M", "--dir", directory, "--budget", "60"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        names = [path for path in Path(directory).iterdir() if parse_name(path.name)]
        if names:
            return process, names[0]
        time.sleep(0.01)
    process.kill()
    raise AssertionError("the run made no file")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_takes_its_files_away(number, tmp_path):
    process, _ = start_a_run(str(tmp_path))
    process.send_signal(number)
    process.wait(timeout=30)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_leaves_is_found_by_its_name(tmp_path):
    process, path = start_a_run(str(tmp_path))
    process.kill()
    process.wait(timeout=30)
    deadline = time.monotonic() + 10  # the measuring process dies with its parent
    while leftovers([str(tmp_path)]) == [] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path in leftovers([str(tmp_path)])
    remove(leftovers([str(tmp_path)]))
    assert list(tmp_path.iterdir()) == []


def test_every_policy_says_what_it_is_and_how_to_have_it():
    for name in POLICIES.names():
        policy = POLICIES.get(name)
        assert policy.name == name
        assert policy.summary
        assert policy.snippet.format(path="FILE", length=4096, name=name)
    with pytest.raises(UsageError, match="did you mean guided"):
        POLICIES.get("gided")
