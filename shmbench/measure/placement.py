"""Placement: which CPU each rank runs on, by the name of what the ranks' CPUs share.

A name is the *nearest level that two CPUs share*, and nothing nearer:

| name         | the CPUs are                                              |
|--------------|-----------------------------------------------------------|
| `same_cpu`   | one and the same                                          |
| `smt`        | siblings of one core                                      |
| `l3`         | different cores under one L3 cache, on one node           |
| `node`       | on one NUMA node, under different L3 caches               |
| `cross_node` | on different NUMA nodes                                   |

| `across:A-B` | half of the ranks' on one node of an MPI job, half on another  |

"L3" is the last level of cache that the kernel tells of: where a core has no L3 (some aarch64), its
L2 counts. Where the kernel tells of no shared cache, each core is under a cache of its own.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from shmbench.errors import Unavailable, UsageError
from shmbench.measure.sysfs import format_cpus, parse_cpus, read_cpus, read_int, read_text
from shmbench.registry import nearest

NAMES: tuple[str, ...] = ("same_cpu", "smt", "l3", "node", "cross_node")

# Different cores first, nearest first; siblings and a single CPU only where there is nothing else.
_DEFAULT_ORDER = ("l3", "node", "cross_node", "smt", "same_cpu")

_ACROSS = "across:"
_NODE_PAIRS_MAX = 66  # all pairs of 12 nodes

_LACKING = {
    "same_cpu": "no CPU is allowed",
    "smt": "no core has two allowed CPUs",
    "l3": "no two allowed cores share an L3 cache",
    "node": "no NUMA node has allowed cores under two L3 caches",
    "cross_node": "the allowed CPUs are all on one NUMA node",
}


@dataclass(frozen=True)
class Cpu:
    """Where one CPU sits. `core`, `l2`, `l3`: the lowest number of the CPUs that share it."""

    number: int
    core: int
    package: int
    l2: int
    l3: int
    node: int


@dataclass(frozen=True)
class Topology:
    """The CPUs that this process may use, by number, and those that are online at all.

    Attributes:
        nodes: in an MPI job over several nodes, those of each; where ranks may be across two.
    """

    cpus: tuple[Cpu, ...]
    online: frozenset[int]
    nodes: tuple[Topology, ...] = ()

    def siblings(self, number: int) -> tuple[int, ...]:
        """The allowed CPUs of the core that this CPU belongs to, itself included."""
        core = self[number].core
        return tuple(cpu.number for cpu in self.cpus if cpu.core == core)

    def __getitem__(self, number: int) -> Cpu:
        for cpu in self.cpus:
            if cpu.number == number:
                return cpu
        raise KeyError(number)


@dataclass(frozen=True)
class Placement:
    """The CPU of each rank.

    Attributes:
        name: what was asked for.
        cpus: by rank.
        oversubscribed: more ranks than the placement has CPUs, so they go round.
        nodes: of the job, that have half of the ranks each; None: all are on this one.
    """

    name: str
    cpus: tuple[int, ...]
    oversubscribed: bool
    nodes: tuple[int, int] | None = None

    @property
    def shares_cpu(self) -> bool:
        """Two ranks are on one CPU: a spinning rank must give it away."""
        return share_cpu(self.cpus, self.nodes)


def share_cpu(cpus: Sequence[int], nodes: tuple[int, int] | None = None) -> bool:
    """Are two ranks on one CPU? With nodes, each has half of the ranks."""
    half = len(cpus) // 2
    parts = [cpus] if nodes is None else [cpus[:half], cpus[half:]]
    return any(len(set(part)) < len(part) for part in parts)


def read_topology(sysfs: Path = Path("/sys"), allowed: set[int] | None = None) -> Topology:
    """Read where the CPUs sit.

    Args:
        sysfs: the root of the sysfs tree.
        allowed: the CPUs to tell of; the default is this process's affinity mask, in which
            taskset, cpusets and containers show (sched_getaffinity(2)).

    Source: Documentation/admin-guide/cputopology.rst and ABI/testing/sysfs-devices-system-cpu of
    the kernel. What is missing (containers, aarch64) makes a CPU a core of its own, with caches
    of its own, on package 0 and node 0.
    """
    if allowed is None:
        allowed = os.sched_getaffinity(0)
    online = read_cpus(sysfs / "devices/system/cpu/online")
    usable = allowed if online is None else allowed & set(online)
    nodes = _node_of_cpus(sysfs)
    cpus = tuple(_read_cpu(sysfs, number, nodes.get(number, 0)) for number in sorted(usable))
    return Topology(cpus, frozenset(allowed if online is None else online))


def _read_cpu(sysfs: Path, number: int, node: int) -> Cpu:
    base = sysfs / f"devices/system/cpu/cpu{number}"
    topology = base / "topology"
    # `core_cpus_list` (5.2) is the newer name of `thread_siblings_list`.
    siblings = read_cpus(topology / "core_cpus_list") or read_cpus(
        topology / "thread_siblings_list"
    )
    core = min([number, *(siblings or ())])
    shared = _shared_caches(base / "cache")
    return Cpu(
        number=number,
        core=core,
        package=max(
            read_int(topology / "physical_package_id") or 0, 0
        ),  # -1: the firmware doesn't tell
        l2=shared.get(2, core),
        l3=shared[max(shared)] if shared else core,
        node=node,
    )


def _shared_caches(directory: Path) -> dict[int, int]:
    """Level of a data cache -> the lowest CPU under it."""
    shared: dict[int, int] = {}
    for index in directory.glob("index[0-9]*"):
        level = read_int(index / "level")
        cpus = read_cpus(index / "shared_cpu_list")
        if level is not None and cpus and read_text(index / "type") != "Instruction":
            shared[level] = min(cpus)
    return shared


def _node_of_cpus(sysfs: Path) -> dict[int, int]:
    nodes: dict[int, int] = {}
    for directory in (sysfs / "devices/system/node").glob("node[0-9]*"):
        node = int(directory.name.removeprefix("node"))
        nodes.update(dict.fromkeys(read_cpus(directory / "cpulist") or (), node))
    return nodes


def relation(first: Cpu, second: Cpu) -> str:
    """The name of what two CPUs share."""
    if first.number == second.number:
        return "same_cpu"
    if first.node != second.node:  # asked first: an L3 may span the nodes of one socket (SNC)
        return "cross_node"
    if first.core == second.core:
        return "smt"
    return "l3" if first.l3 == second.l3 else "node"


def resolve(placement: str, ranks: int, topology: Topology) -> Placement:
    """The CPU of each rank.

    With a name, the first two ranks have exactly the relation that the name says. Further ranks
    are spread over the same core, cache, node or nodes: over all cores first, then over their
    siblings, and then round again. A list gives the CPUs by rank, and goes round likewise.

    Args:
        placement: one of `NAMES`, or CPUs such as "0,1" or "0-3".
        ranks: how many, at least 1.

    Raises:
        Unavailable: the machine, or what this process may use of it, has no such pair of CPUs.
        UsageError: no such name, no list of CPUs, or a CPU that can't be used.
    """
    if placement.startswith(_ACROSS):
        return _across_nodes(placement, ranks, topology)
    if placement in NAMES:
        cpus = _by_name(placement, ranks, topology)
    else:
        cpus = _by_list(placement, topology)
    return Placement(
        placement,
        tuple(cpus[rank % len(cpus)] for rank in range(ranks)),
        # That all ranks share one CPU is what same_cpu asks for.
        oversubscribed=ranks > len(cpus) and placement != "same_cpu",
    )


def across(first: int, second: int) -> str:
    """The placement of ranks across two nodes of an MPI job."""
    return f"{_ACROSS}{first}-{second}"


def node_pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of so many nodes: all of them, or where those are too many, neighbours."""
    found = list(combinations(range(count), 2))
    return found if len(found) <= _NODE_PAIRS_MAX else [(n, n + 1) for n in range(count - 1)]


def _across_nodes(placement: str, ranks: int, topology: Topology) -> Placement:
    match = re.fullmatch(rf"{_ACROSS}(\d+)-(\d+)", placement)
    numbers = [int(number) for number in match.groups()] if match else []
    if len(set(numbers)) != 2 or ranks % 2:
        raise UsageError(
            f"placement {placement!r} with {ranks} ranks",
            "name two nodes of the job, such as across:0-1, and take an even number of ranks",
        )
    if max(numbers) >= len(topology.nodes):
        raise Unavailable(
            f"placement {placement}: the job has {max(1, len(topology.nodes))} nodes",
            "start an MPI job over more nodes, and measure with --across-nodes",
        )
    first, second = numbers
    halves = [
        resolve(closest_pair_name(node), ranks // 2, node)
        for node in (topology.nodes[first], topology.nodes[second])
    ]
    return Placement(
        placement,
        halves[0].cpus + halves[1].cpus,
        any(half.oversubscribed for half in halves),
        (first, second),
    )


def closest_pair_name(topology: Topology) -> str:
    """The default placement: the closest pair of different cores, else of different CPUs."""
    return next((name for name in _DEFAULT_ORDER if _candidates(name, topology.cpus)), "same_cpu")


def available(topology: Topology) -> dict[str, tuple[int, int] | Unavailable]:
    """Each name with the pair of CPUs that it gives, or why this machine has none."""
    found: dict[str, tuple[int, int] | Unavailable] = {}
    for name in NAMES:
        try:
            first, second = resolve(name, 2, topology).cpus
            found[name] = (first, second)
        except Unavailable as why:
            found[name] = why
    return found


def pairs(topology: Topology) -> list[tuple[int, int, str]]:
    """All unordered pairs of different CPUs, with the name of what they share."""
    return [(a.number, b.number, relation(a, b)) for a, b in combinations(topology.cpus, 2)]


def representative_pairs(topology: Topology) -> list[tuple[int, int, str]]:
    """One pair of different CPUs for each name that this machine has."""
    return [
        (*pair, name)
        for name, pair in available(topology).items()
        if name != "same_cpu" and not isinstance(pair, Unavailable)
    ]


def _by_list(text: str, topology: Topology) -> list[int]:
    if not text[:1].isdecimal():
        raise UsageError(
            f"unknown placement {text!r}", f"{nearest(text, NAMES)} (or CPUs such as 0,1)"
        )
    try:
        cpus = parse_cpus(text)
    except ValueError as error:
        raise UsageError(f"placement {text!r}: {error}", "give CPUs such as 0,1 or 0-3") from error
    usable = {cpu.number for cpu in topology.cpus}
    for cpu in cpus:
        if cpu not in usable:
            why = (
                "is not allowed to this process (affinity or cpuset)"
                if cpu in topology.online
                else "is offline or does not exist"
            )
            raise UsageError(
                f"placement {text!r}: CPU {cpu} {why}", f"choose among: {format_cpus(usable)}"
            )
    return cpus


def _by_name(name: str, ranks: int, topology: Topology) -> list[int]:
    """The CPUs of a placement in the order in which ranks take them."""
    candidates = _candidates(name, topology.cpus)
    if not candidates:
        there = [other for other in NAMES if _candidates(other, topology.cpus)]
        raise Unavailable(
            f"placement {name}: {_LACKING[name]}", f"this machine has: {', '.join(there)}"
        )

    def room(parts: list[list[Cpu]]) -> tuple[int, int]:
        cpus = [cpu for part in parts for cpu in part]
        return min(_cores(cpus), ranks), min(len(cpus), ranks)

    return _spread(max(candidates, key=room))


def _candidates(name: str, cpus: tuple[Cpu, ...]) -> list[list[list[Cpu]]]:
    """Where a placement can be had: each is the parts over which the ranks are spread in turn."""
    if name == "same_cpu":
        return [[[cpu]] for cpu in cpus[:1]]
    if name == "smt":
        cores = _grouped(cpus, lambda cpu: (cpu.node, cpu.core))
        return [[core] for core in cores if len(core) > 1]
    if name == "l3":
        caches = _grouped(cpus, lambda cpu: (cpu.node, cpu.l3))
        return [[cache] for cache in caches if _cores(cache) > 1]
    nodes = _grouped(cpus, lambda cpu: cpu.node)
    if name == "node":
        by_cache = [_grouped(node, lambda cpu: cpu.l3) for node in nodes]
        return [caches for caches in by_cache if len(caches) > 1]
    return [nodes] if len(nodes) > 1 else []


def _grouped(cpus: Iterable[Cpu], key: Callable[[Cpu], Hashable]) -> list[list[Cpu]]:
    groups: dict[Hashable, list[Cpu]] = {}
    for cpu in cpus:
        groups.setdefault(key(cpu), []).append(cpu)
    return list(groups.values())


def _cores(cpus: Iterable[Cpu]) -> int:
    return len({cpu.core for cpu in cpus})


def _spread(parts: list[list[Cpu]]) -> list[int]:
    """All CPUs of the parts: first siblings before second ones, and from each part in turn."""
    order: list[tuple[int, int, int, int]] = []
    for part_index, part in enumerate(parts):
        of_core: Counter[int] = Counter()
        of_turn: Counter[int] = Counter()
        for cpu in part:
            sibling = of_core[cpu.core]
            order.append((sibling, of_turn[sibling], part_index, cpu.number))
            of_core[cpu.core] += 1
            of_turn[sibling] += 1
    return [number for *_, number in sorted(order)]
