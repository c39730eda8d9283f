"""Placements by name and by list, on nodes of every shape."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_node import write, write_cpus
from hypothesis import given, settings
from hypothesis import strategies as st

from shmbench.errors import Unavailable, UsageError
from shmbench.measure.placement import (
    NAMES,
    Cpu,
    Topology,
    across,
    available,
    closest_pair_name,
    node_pairs,
    pairs,
    read_topology,
    relation,
    representative_pairs,
    resolve,
)
from shmbench.measure.sysfs import format_cpus, parse_cpus


@pytest.fixture
def small_vm(tmp_path: Path) -> Topology:
    """Two CPUs under one L3, one node."""
    write_cpus(tmp_path, cores=[[0], [1]], l3=[[0, 1]], nodes=[[0, 1]])
    return read_topology(tmp_path, {0, 1})


@pytest.fixture
def laptop(tmp_path: Path) -> Topology:
    """Four cores with two siblings each, numbered as Intel does: 0 and 4 are one core."""
    cores = [[core, core + 4] for core in range(4)]
    write_cpus(tmp_path, cores, l3=[range(8)], nodes=[range(8)])
    return read_topology(tmp_path, set(range(8)))


@pytest.fixture
def ccx_server(tmp_path: Path) -> Topology:
    """One socket, one node, four L3 caches of two cores each."""
    write_cpus(
        tmp_path,
        cores=[[cpu] for cpu in range(8)],
        l3=[[0, 1], [2, 3], [4, 5], [6, 7]],
        nodes=[range(8)],
    )
    return read_topology(tmp_path, set(range(8)))


@pytest.fixture
def dual_socket(tmp_path: Path) -> Topology:
    """Two sockets of two cores with siblings, one L3 and one node each."""
    sockets = [[0, 1, 4, 5], [2, 3, 6, 7]]
    write_cpus(
        tmp_path,
        cores=[[core, core + 4] for core in range(4)],
        l3=sockets,
        nodes=sockets,
        packages=sockets,
    )
    return read_topology(tmp_path, set(range(8)))


def named_pairs(topology: Topology) -> dict[str, tuple[int, int]]:
    return {
        name: pair
        for name, pair in available(topology).items()
        if not isinstance(pair, Unavailable)
    }


def test_two_cores_under_one_l3_are_the_only_pair_of_a_small_vm(small_vm: Topology) -> None:
    assert named_pairs(small_vm) == {"same_cpu": (0, 0), "l3": (0, 1)}
    assert closest_pair_name(small_vm) == "l3"
    assert pairs(small_vm) == [(0, 1, "l3")]


def test_a_laptop_has_siblings_and_cores_and_prefers_cores(laptop: Topology) -> None:
    assert named_pairs(laptop) == {"same_cpu": (0, 0), "smt": (0, 4), "l3": (0, 1)}
    assert closest_pair_name(laptop) == "l3"
    assert laptop.siblings(4) == (0, 4)


def test_several_l3_caches_on_one_node_make_the_node_placement(ccx_server: Topology) -> None:
    assert named_pairs(ccx_server) == {"same_cpu": (0, 0), "l3": (0, 1), "node": (0, 2)}
    assert resolve("node", 4, ccx_server).cpus == (0, 2, 4, 6)
    assert resolve("node", 6, ccx_server).cpus == (0, 2, 4, 6, 1, 3)


def test_two_sockets_make_the_cross_node_placement(dual_socket: Topology) -> None:
    assert named_pairs(dual_socket) == {
        "same_cpu": (0, 0),
        "smt": (0, 4),
        "l3": (0, 1),
        "cross_node": (0, 2),
    }
    assert [cpu.package for cpu in dual_socket.cpus] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert representative_pairs(dual_socket) == [
        (0, 4, "smt"),
        (0, 1, "l3"),
        (0, 2, "cross_node"),
    ]


def test_an_l3_that_spans_two_nodes_is_cross_node(tmp_path: Path) -> None:
    write_cpus(tmp_path, cores=[[0], [1]], l3=[[0, 1]], nodes=[[0], [1]])
    assert pairs(read_topology(tmp_path, {0, 1})) == [(0, 1, "cross_node")]


def test_ranks_take_all_cores_then_siblings_then_go_round(laptop: Topology) -> None:
    placement = resolve("l3", 10, laptop)
    assert placement.cpus == (0, 1, 2, 3, 4, 5, 6, 7, 0, 1)
    assert placement.oversubscribed
    assert not resolve("l3", 8, laptop).oversubscribed


def test_four_ranks_on_two_cpus_go_round_and_must_yield(small_vm: Topology) -> None:
    placement = resolve("l3", 4, small_vm)
    assert placement.cpus == (0, 1, 0, 1)
    assert placement.oversubscribed
    assert placement.shares_cpu


def test_same_cpu_must_yield_but_is_not_called_oversubscribed(small_vm: Topology) -> None:
    placement = resolve("same_cpu", 2, small_vm)
    assert placement.cpus == (0, 0)
    assert placement.shares_cpu
    assert not placement.oversubscribed


def test_the_l3_with_room_for_all_ranks_is_taken(tmp_path: Path) -> None:
    write_cpus(tmp_path, cores=[[c] for c in range(6)], l3=[[0, 1], [2, 3, 4, 5]])
    topology = read_topology(tmp_path, set(range(6)))
    assert resolve("l3", 2, topology).cpus == (0, 1)
    assert resolve("l3", 4, topology).cpus == (2, 3, 4, 5)


def test_only_allowed_cpus_count(dual_socket: Topology, tmp_path: Path) -> None:
    restricted = read_topology(tmp_path, {1, 5})
    assert named_pairs(restricted) == {"same_cpu": (1, 1), "smt": (1, 5)}
    assert closest_pair_name(restricted) == "smt"
    assert closest_pair_name(read_topology(tmp_path, {3})) == "same_cpu"


def test_a_placement_that_the_machine_lacks_is_unavailable_with_those_it_has(
    small_vm: Topology,
) -> None:
    with pytest.raises(Unavailable, match="cross_node: the allowed CPUs are all on one") as caught:
        resolve("cross_node", 2, small_vm)
    assert caught.value.remedy == "this machine has: same_cpu, l3"


def test_a_list_gives_the_cpus_by_rank(laptop: Topology) -> None:
    assert resolve("5,2", 2, laptop).cpus == (5, 2)
    assert resolve("2-4", 2, laptop).cpus == (2, 3)
    assert resolve("0-1", 3, laptop) == resolve("0,1", 3, laptop).__class__(
        "0-1", (0, 1, 0), oversubscribed=True
    )
    assert resolve("3,3", 2, laptop).shares_cpu


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ("l4", "did you mean l3"),
        ("", "known: "),
        ("0,,1", "not a list of CPUs"),
        ("3-1", "not a range of CPUs"),
        ("0-99999999999", "not a range of CPUs"),
        ("-1", "unknown placement"),
        ("0,9", "CPU 9 is offline or does not exist"),
        ("٣", "not a list of CPUs"),
    ],
)
def test_garbage_is_a_usage_error(laptop: Topology, placement: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(placement, 2, laptop)


def test_a_cpu_outside_the_affinity_mask_is_a_usage_error(tmp_path: Path) -> None:
    write_cpus(tmp_path, cores=[[0], [1], [2]])
    with pytest.raises(UsageError, match="CPU 2 is not allowed") as caught:
        resolve("2", 1, read_topology(tmp_path, {0, 1}))
    assert caught.value.remedy == "choose among: 0-1"


def test_without_sysfs_each_cpu_is_a_core_of_its_own(tmp_path: Path) -> None:
    topology = read_topology(tmp_path, {0, 2})
    assert topology.cpus == (Cpu(0, 0, 0, 0, 0, 0), Cpu(2, 2, 0, 2, 2, 0))
    assert closest_pair_name(topology) == "node"


def test_unreadable_values_are_like_missing_ones(tmp_path: Path) -> None:
    write_cpus(tmp_path, cores=[[0], [1]])
    base = tmp_path / "devices/system/cpu/cpu0"
    write(base / "topology/thread_siblings_list", "what?")
    write(base / "topology/physical_package_id", -1)
    write(base / "cache/index2/level", "")
    assert read_topology(tmp_path, {0}).cpus == (Cpu(0, 0, 0, 0, 0, 0),)


def test_where_there_is_no_l3_a_shared_l2_is_the_last_level(tmp_path: Path) -> None:
    write_cpus(tmp_path, cores=[[0], [1]])
    for cpu in (0, 1):
        write(tmp_path / f"devices/system/cpu/cpu{cpu}/cache/index2/shared_cpu_list", "0-1")
    assert closest_pair_name(read_topology(tmp_path, {0, 1})) == "l3"


def test_this_machine_gives_only_cpus_of_the_affinity_mask() -> None:
    topology = read_topology()
    assert {cpu.number for cpu in topology.cpus} == os.sched_getaffinity(0)
    for pair in named_pairs(topology).values():
        assert set(pair) <= os.sched_getaffinity(0)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Nodes that hold caches that hold cores that hold siblings; some CPUs are not allowed."""
    shape = draw(
        st.lists(
            st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=3),
            min_size=1,
            max_size=3,
        )
    )
    total = sum(siblings for node in shape for cache in node for siblings in cache)
    numbers = iter(draw(st.permutations(range(total))))
    cpus: list[Cpu] = []
    for node, caches in enumerate(shape):
        for cache in caches:
            cores = [sorted(next(numbers) for _ in range(siblings)) for siblings in cache]
            l3 = min(min(core) for core in cores)
            cpus.extend(
                Cpu(cpu, core[0], node, core[0], l3, node) for core in cores for cpu in core
            )
    allowed = draw(st.sets(st.sampled_from(range(total)), min_size=1))
    usable = sorted((cpu for cpu in cpus if cpu.number in allowed), key=lambda cpu: cpu.number)
    return Topology(tuple(usable), frozenset(range(total)))


@settings(deadline=None)
@given(topologies(), st.sampled_from(NAMES), st.integers(1, 12))
def test_every_rank_is_on_an_allowed_cpu_and_the_first_pair_is_as_named(
    topology: Topology, name: str, ranks: int
) -> None:
    relations = {shared for _, _, shared in pairs(topology)} | {"same_cpu"}
    if name not in relations:
        with pytest.raises(Unavailable):
            resolve(name, ranks, topology)
        return
    placement = resolve(name, ranks, topology)
    assert len(placement.cpus) == ranks
    assert set(placement.cpus) <= {cpu.number for cpu in topology.cpus}
    if ranks > 1:
        assert relation(*(topology[cpu] for cpu in placement.cpus[:2])) == name
    if name != "same_cpu":
        assert placement.shares_cpu == placement.oversubscribed


@settings(deadline=None)
@given(topologies())
def test_the_representatives_are_one_pair_a_name(topology: Topology) -> None:
    chosen = representative_pairs(topology)
    assert set(chosen) <= {
        candidate for a, b, name in pairs(topology) for candidate in ((a, b, name), (b, a, name))
    }
    assert sorted(name for _, _, name in chosen) == sorted({name for *_, name in pairs(topology)})


@settings(deadline=None)
@given(st.sets(st.integers(0, 200)))
def test_a_list_of_cpus_reads_back_as_written(cpus: set[int]) -> None:
    assert parse_cpus(format_cpus(cpus)) == sorted(cpus)


def test_ranks_across_nodes_are_half_on_each_and_share_a_cpu_only_within_a_node(
    small_vm: Topology, laptop: Topology
) -> None:
    job = Topology(small_vm.cpus, small_vm.online, nodes=(small_vm, laptop))
    pair = resolve(across(0, 1), 2, job)
    assert (pair.cpus, pair.nodes, pair.shares_cpu) == ((0, 0), (0, 1), False)
    many = resolve(across(1, 0), 8, job)
    assert many.nodes == (1, 0)
    assert len(set(many.cpus[:4])) == 4
    assert many.shares_cpu  # four ranks on the two CPUs of node 0
    assert many.oversubscribed


def test_a_placement_across_nodes_that_are_not_there_has_a_remedy(small_vm: Topology) -> None:
    with pytest.raises(Unavailable, match="--across-nodes"):
        resolve(across(0, 1), 2, small_vm)
    job = Topology(small_vm.cpus, small_vm.online, nodes=(small_vm, small_vm))
    for name, ranks in (("across:0", 2), ("across:0-0", 2), ("across:0-1", 3)):
        with pytest.raises(UsageError, match="two nodes of the job"):
            resolve(name, ranks, job)


def test_many_nodes_are_measured_with_their_neighbours_only() -> None:
    assert node_pairs(3) == [(0, 1), (0, 2), (1, 2)]
    assert node_pairs(100) == [(n, n + 1) for n in range(99)]
