"""Every workload between MPI ranks: two and eight of them, one killed, and on two nodes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import mpi_harness
import pytest
from needs import need

from shmbench.clean import mpi_leftovers
from shmbench.native import loops
from shmbench.workloads import WORKLOADS
from shmbench.workloads.overlap import hidden_share

WHOLE = [n for n in WORKLOADS.names() if not WORKLOADS.get(n).needs_fork and n != "trace"]
OF_FILES = [n for n in WHOLE if WORKLOADS.get(n).family == "policy"]
OF_MESSAGES = [n for n in WHOLE if WORKLOADS.get(n).uses_channel]
OTHERS = [n for n in WHOLE if n not in OF_FILES and n not in OF_MESSAGES]
CHANNELS = "spin,mpi_p2p_nonblocking,mpi_rma_put"  # a ring, and MPI's own of two and of one side
BRIEF = ("--quick", "--budget", "0.1", "--timeout", "20")
ON_FILES = ("--region", "file", "--policy", "none", "--cache", "warm", "--file-size", "4M")


def run(tmp_path: Path, ranks: int, *options: str) -> list[dict[str, Any]]:
    output = tmp_path / "r.json"
    ended = mpi_harness.shmbench(
        *("run", "--launcher", "mpi", "--ranks", str(ranks), "--output", str(output), *options),
        deadline_s=180,
    )
    assert output.exists(), ended.err
    return mpi_harness.results_of(output)


def of_workload(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    chosen = [result for result in found if result["workload"] == name]
    for result in chosen:
        assert result["error"] is None, result["error"]
    return chosen


def test_every_workload_runs_between_mpi_ranks_or_wants_processes_of_its_own() -> None:
    refused = {n for n in WORKLOADS.names() if WORKLOADS.get(n).needs_fork}
    assert refused == {
        *("first_touch", "map_unmap", "flush", "fork_cost", "shootdown", "reopen", "over_memory")
    }


def test_overlap_says_which_share_of_the_communication_is_hidden(tmp_path: Path) -> None:
    found = run(tmp_path, 2, "--workload", "overlap,collective_overlap", "--size", "4K", *BRIEF)
    pairs, collectives = of_workload(found, "overlap"), of_workload(found, "collective_overlap")
    assert {r["channel"] for r in pairs} == {"mpi_p2p_nonblocking", "mpi_persistent"}
    assert {r["variant"] for r in collectives} == {"bcast", "allreduce", "allgather", "alltoall"}
    for result in pairs + collectives:
        figures = result["figures"]
        assert len(figures["hidden_share"]) == len(result["samples"])
        assert all(0 <= share <= 1 for share in figures["hidden_share"])
        assert min(figures["alone_s"] + figures["computation_s"]) > 0


def test_the_hidden_share_is_none_half_or_all() -> None:
    assert hidden_share(2.0, 2.0, 4.0) == 0
    assert hidden_share(2.0, 2.0, 3.0) == 0.5
    assert hidden_share(2.0, 2.0, 2.0) == 1
    assert hidden_share(1.0, 4.0, 4.0) == 1
    assert hidden_share(2.0, 2.0, 9.0) == 0


def test_a_computation_takes_longer_the_more_steps_it_has() -> None:
    value = 1
    for _ in range(3):
        value = (value * 6364136223846793005 + 1442695040888963407) % 2**64
    assert loops.compute(3) == value


def test_one_sided_operations_are_proven_at_the_other_rank(tmp_path: Path) -> None:
    found = run(tmp_path, 2, "--workload", "one_sided,one_sided_stream", "--size", "8,4K", *BRIEF)
    single = {(r["variant"], r["message_bytes"]) for r in of_workload(found, "one_sided")}
    wanted = {(name, size) for name in ("put", "get") for size in (8, 4096)}
    assert single == wanted | {("fetch_and_op", 8), ("compare_and_swap", 8)}
    assert {r["window"] for r in of_workload(found, "one_sided_stream")} == {64}


def test_regions_are_opened_and_closed_by_all_ranks(tmp_path: Path) -> None:
    kinds = ("mpi_window", "mpi_window_noncontig", "mpi_mmap", "posix_shm", "memfd")
    found = run(
        tmp_path,
        *(3, "--workload", "open_region", "--region", ",".join(kinds), "--size", "64K", *BRIEF),
    )
    assert [r["region"] for r in of_workload(found, "open_region")] == list(kinds)


@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_ranks_read_one_file_at_once_while_the_first_has_a_policy(
    tmp_path: Path, cache: str
) -> None:
    found = run(
        tmp_path,
        *(3, "--workload", "one_ahead", "--driver", "python", "--policy", "none,map_ahead,guided"),
        *("--cache", cache, "--file-size", "2M", "--dir", "/var/tmp", "--region", "file", *BRIEF),
    )
    chosen = of_workload(found, "one_ahead")
    assert len(chosen) == 9
    for result in chosen:
        assert result["ranks"] == 3
        assert result["figures"]["rank_0_s"][0] > 0
        # The counters are sums over ranks: only the first has a library's policy.
        assert ("policy_accesses" in result["counters"]) == (result["policy"] != "none")


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "names", [OF_MESSAGES, OTHERS, OF_FILES], ids=["messages", "others", "files"]
)
def test_eight_ranks_on_few_cpus_finish_every_workload(tmp_path: Path, names: list[str]) -> None:
    options = ON_FILES if names is OF_FILES else ("--channel", CHANNELS, "--size", "8")
    found = run(tmp_path, 8, "--workload", ",".join(names), *options, *BRIEF)
    assert set(names) == {result["workload"] for result in found} | {"device"} & set(names)
    for result in found:
        assert result["error"] is None or result["error"]["type"] == "Unavailable", result


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_one_of_four_ranks_killed_in_any_workload_ends_the_job_and_leaves_nothing(
    tmp_path: Path, name: str
) -> None:
    output = tmp_path / "r.json"
    options = ON_FILES if name in OF_FILES else ("--channel", CHANNELS, "--size", "8")
    if name == "device":
        options = ("--file-size", "4M", "--dir", "/var/tmp")
    before = set(mpi_leftovers(least_age_s=0))
    mpi_harness.launcher()
    struck = mpi_harness.strike(
        1,
        output,
        [
            *(sys.executable, "-m", "shmbench", "run", "--launcher", "mpi", "--ranks", "4"),
            *("--workload", name, *options, "--budget", "60", "--output", str(output)),
        ],
    )
    assert struck.ended.code == 1
    assert struck.after_s < 10
    assert struck.left == []
    assert set(mpi_leftovers(least_age_s=0)) <= before
    assert "rank 1 (process" in struck.ended.err
    assert any(
        r["error"] and "rank 1" in r["error"]["message"]
        for r in json.loads(output.read_text())["results"]
    )


def two_nodes() -> dict[str, str]:
    if mpi_harness.launcher().mpi["vendor"] != "MPICH":
        need(False, "only MPICH can play several nodes on one machine", "install the mpich wheel")
    return {"MPIR_CVAR_NUM_CLIQUES": "2"}


def test_pairs_of_nodes_are_measured_where_they_are_asked_for(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    ended = mpi_harness.mpirun(
        4,
        [
            *("-m", "shmbench", "run", "--across-nodes", "--workload", "ping_pong,multi_pair"),
            *("--channel", "futex,mpi_p2p", "--size", "8", "--output", str(output), *BRIEF),
        ],
        two_nodes(),
    )
    assert ended.code == 0, ended.err
    found = mpi_harness.results_of(output)
    across = [result for result in found if result["placement"] == "across:0-1"]
    assert [(r["workload"], r["channel"], r["ranks"]) for r in across] == [
        ("ping_pong", "mpi_p2p", 2),
        ("multi_pair", "mpi_p2p", 4),
    ]
    for result in across:
        assert result["error"] is None
        assert result["host"].count(",") == 1
        assert result["limit"] is None
    assert len(found) > len(across)


def test_nodes_with_one_rank_each_measure_only_across(tmp_path: Path) -> None:
    ended = mpi_harness.mpirun(
        2,
        [
            *("-m", "shmbench", "run", "mpi", "--across-nodes", "--like", "osu_latency"),
            *("--size", "16K"),  # the ranks share a CPU here, so as few messages as OSU has
        ],
        two_nodes(),
    )
    assert ended.code == 0, ended.err
    assert re.search(r"^16384 +\d+\.\d\d$", ended.out, re.MULTILINE)


def test_a_node_that_can_not_measure_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    ended = mpi_harness.mpirun(
        3,  # of which one is alone on its node
        [
            *("-m", "shmbench", "run", "--workload", "ping_pong", "--channel", "futex"),
            *("--size", "8", "--output", str(output), *BRIEF),
        ],
        two_nodes(),
    )
    assert ended.code == 0, ended.err
    plan = json.loads(output.read_text())["plan"]
    assert any("1 rank on this node" in why for why in plan["left_out"].values())
    assert len(mpi_harness.results_of(output)) == 2


@pytest.mark.slow
def test_a_rank_killed_while_nodes_measure_together_ends_the_job(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    found = mpi_harness.launcher()
    program = ["-m", "shmbench", "run", "--across-nodes", "--workload", "ping_pong"]
    options = ["--channel", "mpi_p2p", "--size", "8", "--budget", "60", "--output", str(output)]
    struck = mpi_harness.strike(
        1, output, found.command(2, [*program, *options]), {**found.environment, **two_nodes()}
    )
    assert struck.ended.code != 0
    assert struck.after_s < 10
    assert struck.left == []
