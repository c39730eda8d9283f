"""How each fact is read. Every reader takes the root of the file system, "/" but in tests.

A reader may raise what it likes where the machine does not tell: `facts` turns it into None.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from shmbench.measure.placement import read_topology
from shmbench.measure.sysfs import read_cpus, read_int, read_text

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def online(root: Path) -> set[int]:
    """The CPUs that are online, whether this process may use them or not."""
    return set(read_cpus(root / "sys/devices/system/cpu/online") or range(os.cpu_count() or 1))


def cpuinfo(root: Path, *keys: str) -> str | None:
    """The first value in /proc/cpuinfo of the first of these keys that is there."""
    text = read_text(root / "proc/cpuinfo") or ""
    for key in keys:
        if found := re.search(rf"^{re.escape(key)}\s*:\s*(.+)$", text, re.MULTILINE):
            return found[1].strip()
    return None


def cpu_model(root: Path) -> str | None:
    """The CPU's name; on aarch64, which gives none, the numbers of implementer and part."""
    if name := cpuinfo(root, "model name", "cpu model", "cpu"):
        return name
    implementer, part = cpuinfo(root, "CPU implementer"), cpuinfo(root, "CPU part")
    return f"implementer {implementer} part {part}" if implementer and part else None


def cores(root: Path) -> int:
    """How many cores the CPUs that are online make up."""
    return len({cpu.core for cpu in read_topology(root / "sys", online(root)).cpus})


def smt_active(root: Path) -> bool:
    return cores(root) < len(online(root))


def cache_bytes(root: Path, level: int) -> int | None:
    """The size of one data cache of this level, of the lowest CPU that is online."""
    caches = root / f"sys/devices/system/cpu/cpu{min(online(root))}/cache"
    for index in caches.glob("index[0-9]*"):
        if read_int(index / "level") == level and read_text(index / "type") != "Instruction":
            size = re.fullmatch(r"(\d+)([KMG]?)", read_text(index / "size") or "")
            return int(size[1]) * UNITS[size[2]] if size else None
    return None


def numa_nodes(root: Path) -> int | None:
    """How many NUMA nodes there are; those with memory and no CPU count too."""
    return len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None


def hypervisor(root: Path) -> str | None:
    """Whose guest this is: "none" on x86 hardware, None where neither CPU nor firmware tells."""
    clocks = read_text(root / "sys/devices/system/clocksource/clocksource0/available_clocksource")
    for clock, name in (("kvm-clock", "kvm"), ("hyperv", "hyper-v"), ("xen", "xen")):
        if clock in (clocks or ""):
            return name
    flags = cpuinfo(root, "flags")
    if flags is None:
        return None
    if "hypervisor" not in flags.split():
        return "none"
    return read_text(root / "sys/class/dmi/id/sys_vendor") or "unknown"


def governor(root: Path) -> str | None:
    """The frequency governors of the CPUs that are online: one name, or several joined."""
    policies = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ", ".join(sorted({text for path in policies if (text := read_text(path))})) or None


def frequency_driver(root: Path) -> str | None:
    return read_text(root / f"sys/devices/system/cpu/cpu{min(online(root))}/cpufreq/scaling_driver")


def boost(root: Path) -> bool | None:
    """May the clock rise above its base frequency (turbo)? None where the kernel can't tell."""
    cpus = root / "sys/devices/system/cpu"
    no_turbo = read_int(cpus / "intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == 0
    switch = read_int(cpus / "cpufreq/boost")
    return None if switch is None else switch == 1


def clock_source(root: Path) -> str | None:
    return read_text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")


def meminfo_bytes(root: Path, key: str) -> int:
    """A line of /proc/meminfo, which counts in KiB."""
    found = re.search(rf"^{key}:\s*(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE)
    if found is None:
        raise KeyError(key)
    return int(found[1]) * 1024


def transparent_huge_pages(root: Path, switch: str) -> str | None:
    """What is chosen in `enabled`, `defrag` or `shmem_enabled`: the word in brackets."""
    text = read_text(root / "sys/kernel/mm/transparent_hugepage" / switch)
    found = re.search(r"\[(.+?)\]", text or "")
    return found[1] if found else None


def huge_pages(root: Path) -> dict[str, int]:
    """Page size, as in "2048kB" -> how many are reserved."""
    pools = (root / "sys/kernel/mm/hugepages").glob("hugepages-*")
    return {
        pool.name.removeprefix("hugepages-"): read_int(pool / "nr_hugepages") or 0
        for pool in sorted(pools)
    }


def shm_bytes(root: Path) -> int:
    """The size of the file system at /dev/shm."""
    status = os.statvfs(root / "dev/shm")
    return status.f_blocks * status.f_frsize


def shm_free_bytes(root: Path) -> int:
    status = os.statvfs(root / "dev/shm")
    return status.f_bavail * status.f_frsize


def mitigations(root: Path) -> dict[str, str]:
    """Vulnerability -> what the kernel does about it, for those that this CPU has."""
    files = sorted((root / "sys/devices/system/cpu/vulnerabilities").iterdir())
    states = {path.name: read_text(path) for path in files}
    return {name: text for name, text in states.items() if text and text != "Not affected"}


def numa_balancing(root: Path) -> bool | None:
    switch = read_int(root / "proc/sys/kernel/numa_balancing")
    return None if switch is None else switch != 0


def cgroup_memory_bytes(root: Path) -> int | None:
    """The memory limit of this process's cgroup and those above it; None where there is none."""
    limits: list[int] = []
    for directory in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = read_int(directory / name)
            # v1 says "none" by the largest multiple of a page that fits in 63 bits.
            if limit is not None and limit < 2**62:
                limits.append(limit)
    return min(limits, default=None)


def cgroup_cpus(root: Path) -> float | None:
    """The CPU time that the cgroup may use, in CPUs; None where there is no limit."""
    quotas: list[float] = []
    for directory in _cgroups(root, "cpu"):
        quota, period = (read_text(directory / "cpu.max") or "max 1").split()  # v2
        if quota == "max":
            quota = read_text(directory / "cpu.cfs_quota_us") or "-1"  # v1
            period = read_text(directory / "cpu.cfs_period_us") or "1"
        if int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _cgroups(root: Path, controller: str) -> list[Path]:
    """The directories of this process's cgroup, and of all above it, for a controller.

    The path in /proc/self/cgroup (cgroups(7)) may be the host's while only the container's own
    cgroup is mounted: those that do not exist are harmless, and the mount's root is always there.
    """
    directories: list[Path] = []
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        mounts = [controllers] if controller in controllers.split(",") else []
        if hierarchy == "0":
            mounts = [".", "unified"]
        for mount in mounts:
            base = root / "sys/fs/cgroup" / mount
            inner = Path(path.lstrip("/"))
            directories += [base / part for part in (inner, *inner.parents)]
    return directories


def gil_enabled(_: Path) -> bool:
    """False only in a free-threaded interpreter that runs without its lock (3.13 and later)."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def libc(_: Path) -> str | None:
    return os.confstr("CS_GNU_LIBC_VERSION")


def load_average(root: Path) -> list[float]:
    """Over 1, 5 and 15 minutes."""
    return [float(word) for word in (root / "proc/loadavg").read_text().split()[:3]]
