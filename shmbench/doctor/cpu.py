"""CPUs: which there are, how their clocks run, and who else may use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shmbench.doctor.check import Check, info, ok, warn
from shmbench.errors import Unavailable
from shmbench.machine import show
from shmbench.measure.placement import Topology, available
from shmbench.measure.sysfs import format_cpus
from shmbench.native.clock import clock_cost_ns, clock_step_ns

# A read through the vDSO takes 20 to 40 ns; a timer outside of the CPU, 500 and more.
CLOCK_COST_NS_MAX = 100.0


def cpu_checks(facts: Mapping[str, Any], topology: Topology) -> list[Check]:
    """All checks of this file, from the facts of `shmbench.machine`."""
    return [
        cpus(facts, topology),
        caches(facts),
        placements(topology),
        smt(facts),
        governor(facts),
        boost(facts),
        quota(facts, topology),
        virtualization(facts),
        numa(facts),
        clock(facts, clock_cost_ns(), clock_step_ns()),
    ]


def cpus(facts: Mapping[str, Any], topology: Topology) -> Check:
    allowed = topology.cpus
    levels = {
        "cores": {cpu.core for cpu in allowed},
        "last-level caches": {cpu.l3 for cpu in allowed},
        "packages": {cpu.package for cpu in allowed},
        "nodes": {cpu.node for cpu in allowed},
    }
    found = (
        f"{show('cpu_model', facts['cpu_model'])}; "
        f"allowed: {len(allowed)} of {len(topology.online)} CPUs "
        f"({format_cpus(cpu.number for cpu in allowed)}), "
        + ", ".join(f"{level}: {len(members)}" for level, members in levels.items())
    )
    if len(allowed) > 1:
        return info("cpus", found)
    return warn(
        "cpus",
        found,
        "all ranks share one CPU: latency is that of the scheduler, spinning has to yield",
        "allow more CPUs (taskset, docker --cpuset-cpus, sbatch --cpus-per-task)",
    )


def caches(facts: Mapping[str, Any]) -> Check:
    keys = {"L1d": "l1d_bytes", "L2": "l2_bytes", "L3": "l3_bytes"}
    return info(
        "caches", ", ".join(f"{name} {show(key, facts[key])}" for name, key in keys.items())
    )


def placements(topology: Topology) -> Check:
    there, lacking = [], []
    for name, pair in available(topology).items():
        if isinstance(pair, Unavailable):
            lacking.append(name)
        else:
            there.append(f"{name} ({pair[0]},{pair[1]})")
    found = ", ".join(there) or "none"
    return info("placements", f"{found}; not here: {', '.join(lacking)}" if lacking else found)


def smt(facts: Mapping[str, Any]) -> Check:
    if not facts["smt_active"]:
        return ok("smt", "off, or the CPU has none")
    return warn(
        "smt",
        "on",
        "whatever runs on the sibling of a rank's CPU takes up to half of its core",
        "for the run: echo off > /sys/devices/system/cpu/smt/control",
    )


def governor(facts: Mapping[str, Any]) -> Check:
    found = facts["governor"]
    if found is None:
        return info("governor", "no frequency control here (the host or the firmware has it)")
    if found == "performance":
        return ok("governor", found)
    return warn(
        "governor",
        f"{found} ({show('frequency_driver', facts['frequency_driver'])})",
        "the clock ramps up during a case and falls while ranks wait: figures are slower and vary",
        "cpupower frequency-set --governor performance",
    )


def boost(facts: Mapping[str, Any]) -> Check:
    if facts["boost"] is None:
        return info("boost", "the kernel does not tell")
    if not facts["boost"]:
        return ok("boost", "off")
    return warn(
        "boost",
        "on",
        "the clock depends on temperature and on what other cores do: runs drift by some percent",
        "for the run: echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo"
        if facts["frequency_driver"] in ("intel_pstate", "intel_cpufreq")
        else "for the run: echo 0 > /sys/devices/system/cpu/cpufreq/boost",
    )


def quota(facts: Mapping[str, Any], topology: Topology) -> Check:
    limit = facts["cgroup_cpus"]
    if limit is None or limit >= len(topology.cpus):
        return ok("cpu quota", "none" if limit is None else f"{limit:g} CPUs")
    return warn(
        "cpu quota",
        f"{limit:g} CPUs of time on {len(topology.cpus)} CPUs",
        "ranks that spin use it up, and then all stand still for up to 0.1 s",
        "lift it (docker without --cpus, cpu.max = max), or allow CPUs by cpuset instead",
    )


def virtualization(facts: Mapping[str, Any]) -> Check:
    host = facts["hypervisor"]
    if host == "none":
        return ok("virtualization", "none")
    return info(
        "virtualization",
        "unknown" if host is None else f"guest of {host}: the host may take CPUs away (see steal)",
    )


def numa(facts: Mapping[str, Any]) -> Check:
    nodes = facts["numa_nodes"] or 1
    balancing = facts["numa_balancing"]
    if nodes == 1 or not balancing:
        return ok("numa balancing", f"nodes: {nodes}, balancing: {'on' if balancing else 'off'}")
    return warn(
        "numa balancing",
        f"nodes: {nodes}, balancing: on",
        "the kernel unmaps pages to see who uses them, and moves them: faults within the loops",
        "sysctl kernel.numa_balancing=0",
    )


def clock(facts: Mapping[str, Any], cost_ns: float, step_ns: int) -> Check:
    source = show("clock_source", facts["clock_source"])
    found = f"{source}: {cost_ns:.0f} ns a read, steps of {step_ns} ns"
    if cost_ns <= CLOCK_COST_NS_MAX:
        return ok("clock", found)
    return warn(
        "clock",
        found,
        "single operations shorter than a read of the clock can't be told apart in percentiles",
        "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource, or boot with "
        "tsc=reliable if the kernel distrusts it",
    )
