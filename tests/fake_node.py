"""Fake trees of /sys and /proc: nodes that the machine running the tests is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shmbench.measure.sysfs import format_cpus


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def write_cpus(
    sysfs: Path,
    cores: Sequence[Sequence[int]],
    l3: Sequence[Sequence[int]] = (),
    nodes: Sequence[Sequence[int]] = (),
    packages: Sequence[Sequence[int]] = (),
) -> Path:
    """A sysfs tree with these cores, L3 caches, nodes and packages, each a list of its CPUs."""
    every = [cpu for core in cores for cpu in core]
    write(sysfs / "devices/system/cpu/online", format_cpus(every))
    for core in cores:
        for cpu in core:
            base = sysfs / f"devices/system/cpu/cpu{cpu}"
            write(base / "topology/thread_siblings_list", format_cpus(core))
            write_cache(base / "cache/index0", 1, "Data", "32K", core)
            write_cache(base / "cache/index1", 1, "Instruction", "64K", core)
            write_cache(base / "cache/index2", 2, "Unified", "1024K", core)
            for cache in l3:
                if cpu in cache:
                    write_cache(base / "cache/index3", 3, "Unified", "32768K", cache)
            for number, package in enumerate(packages):
                if cpu in package:
                    write(base / "topology/physical_package_id", number)
    for number, node in enumerate(nodes):
        write(sysfs / f"devices/system/node/node{number}/cpulist", format_cpus(node))
    return sysfs


def write_cache(directory: Path, level: int, kind: str, size: str, cpus: Sequence[int]) -> None:
    write(directory / "level", level)
    write(directory / "type", kind)
    write(directory / "size", size)
    write(directory / "shared_cpu_list", format_cpus(cpus))
