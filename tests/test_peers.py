"""The names people know: one table, and output that the parsers of OSU's and IMB's output read."""

from __future__ import annotations

import re
from pathlib import Path

import mpi_harness
import pytest
from sample_results import sample_result as sample

from shmbench.channels import CHANNELS
from shmbench.errors import UsageError
from shmbench.measure.placement import Cpu, Topology
from shmbench.peers import PEERS, markdown, peer_named
from shmbench.report.peers import lines
from shmbench.results import Result
from shmbench.workloads import WORKLOADS

PAGE = Path(__file__).parent.parent / "docs" / "mpi.md"
TWO = Topology(tuple(Cpu(n, n, 0, n, 0, 0) for n in range(2)), frozenset({0, 1}))


def measured(name: str, size: int | None, seconds: float, **others: object) -> Result:
    peer = PEERS[name]
    return sample(
        workload=peer.workload,
        channel=peer.channel,
        variant=peer.variant,
        driver="python",
        launcher="mpi",
        message_bytes=size,
        window=peer.window,
        median=seconds,
        samples=[seconds],
        mpi={"vendor": "MPICH", "version": "5.0.2"},
        **others,
    )


def shown(name: str, *results: Result) -> list[str]:
    found = lines(PEERS[name], results)
    assert found[0].startswith("# shmbench")
    return found[1:]


def test_the_table_of_the_page_is_the_codes() -> None:
    assert markdown() in PAGE.read_text()


def test_every_name_has_a_case_here_with_its_own_sizes_and_counts() -> None:
    for peer in PEERS.values():
        found = peer.cases(TWO, 2)
        wanted = len(peer.sizes()) if WORKLOADS.get(peer.workload).has_sizes else 1
        assert len(found.cases) == wanted, peer.name
        for case in found.cases:
            assert case.driver == "python"
            assert case.window == peer.window
            if case.channel is not None:
                assert CHANNELS.get(f"python/{case.channel}").needs_mpi
            sampling = peer.sampling(case)
            assert sampling.iterations
            assert sampling.warmup_iterations


def test_latency_has_the_sizes_and_counts_of_osu() -> None:
    peer = PEERS["osu_latency"]
    assert peer.sizes() == tuple(1 << n for n in range(23))
    small, large = peer.cases(TWO, 2, sizes=(8192, 16384)).cases
    assert (peer.sampling(small).warmup_iterations, peer.sampling(small).iterations) == (100, 10000)
    assert (peer.sampling(large).warmup_iterations, peer.sampling(large).iterations) == (10, 1000)


def test_imb_repeats_less_where_messages_are_large() -> None:
    peer = PEERS["PingPong"]
    counts = {size: peer.loops(size)[1] for size in (1, 32768, 65536, 4 << 20)}
    assert counts == {1: 1000, 32768: 1000, 65536: 640, 4 << 20: 10}


def test_an_unknown_name_and_a_number_of_ranks_that_does_not_fit_have_remedies() -> None:
    with pytest.raises(UsageError, match="osu_latency"):
        peer_named("osu_latencies")
    with pytest.raises(UsageError, match="even number"):
        PEERS["osu_mbw_mr"].cases(TWO, 3)


# The lines with figures are of outputs of OSU 7.3 and of IMB 2021, but for the figures.


def test_osu_latency_looks_like_osus() -> None:
    found = shown("osu_latency", measured("osu_latency", 1, 3.16e-6))
    assert found == [
        "",
        "# OSU MPI Latency Test v7.3",
        "# Size          Latency (us)",
        "1                       3.16",
    ]


def test_osu_bandwidths_count_what_osu_counts() -> None:
    one_way = shown("osu_bw", measured("osu_bw", 1024, 1e-6))
    assert one_way[2:] == ["# Size      Bandwidth (MB/s)", "1024                 1024.00"]
    both = shown("osu_bibw", measured("osu_bibw", 1024, 1e-6))
    assert both[-1].split() == ["1024", "2048.00"]
    pairs = shown("osu_mbw_mr", measured("osu_mbw_mr", 1, 1e-7, ranks=4))
    assert pairs[2:] == [
        "# [ pairs: 2 ] [ window size: 64 ]",
        "# Size                  MB/s        Messages/s",
        "1                      10.00       10000000.00",
    ]


def test_osu_collectives_give_the_mean_of_the_ranks() -> None:
    figures = {"fastest_rank_s": [1e-6], "mean_rank_s": [1.41e-6], "slowest_rank_s": [2e-6]}
    barrier = shown("osu_barrier", measured("osu_barrier", None, 2e-6, figures=figures))
    assert barrier[1:] == [
        "# OSU MPI Barrier Latency Test v7.3",
        "# Avg Latency(us)",
        "             1.41",
    ]
    reduced = shown("osu_allreduce", measured("osu_allreduce", 4, 2e-6, figures=figures))
    assert reduced[2:] == ["# Size       Avg Latency(us)", "4                       1.41"]


def test_overlap_stands_in_the_order_of_each_suite() -> None:
    figures = {"computation_s": [2e-6], "alone_s": [3e-6], "hidden_share": [0.5]}
    osu = shown("osu_ialltoall", measured("osu_ialltoall", 8, 4e-6, figures=figures))
    assert osu[-1].split() == ["8", "4.00", "2.00", "3.00", "50.00"]
    columns = ["Overall(us)", "Compute(us)", "Pure Comm.(us)", "Overlap(%)"]
    assert osu[-2] == "# Size    " + "".join(f"{each:>18}" for each in columns)
    imb = shown("Ialltoall", measured("Ialltoall", 8, 4e-6, figures=figures))
    assert imb[-1].split() == ["8", "1000", "4.00", "3.00", "2.00", "50.00"]


def test_imb_looks_like_imbs() -> None:
    found = shown("PingPong", measured("PingPong", 1024, 2e-6))
    assert found == [
        "",
        "#---------------------------------------------------",
        "# Benchmarking PingPong ",
        "# #processes = 2 ",
        "#---------------------------------------------------",
        "       #bytes #repetitions      t[usec]   Mbytes/sec",
        "         1024         1000         2.00       512.00",
    ]


def test_imb_exchange_is_two_messages_to_each_side() -> None:
    figures = {"fastest_rank_s": [1e-6], "mean_rank_s": [1e-6], "slowest_rank_s": [1e-6]}
    found = shown("Exchange", measured("Exchange", 1000, 1e-6, figures=figures))
    assert found[-1].split() == ["1000", "1000", "2.00", "2.00", "2.00", "2000.00"]


def test_a_run_prints_what_osu_prints_and_keeps_the_results(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    ended = mpi_harness.shmbench(
        *("run", "mpi", "--like", "osu_latency", "--size", "8,16K", "--output", str(output))
    )
    assert ended.code == 0, ended.err
    rows = [line for line in ended.out.splitlines() if not line.startswith("#") and line]
    assert len(rows) == 2
    for row, size in zip(rows, (8, 16384), strict=True):
        assert re.fullmatch(rf"{size} +\d+\.\d\d", row)
        assert len(row) == 28
    small, large = mpi_harness.results_of(output)
    for result in (small, large):  # a batch each; a disturbed one is measured once more
        assert result["counters"]["batches"] == result["groups"] <= 2
    assert (small["channel"], small["workload"]) == ("mpi_p2p", "ping_pong")
    assert float(rows[0].split()[1]) == pytest.approx(small["median"] * 1e6, abs=0.006)


# One name of each sort: what is measured, and what is printed.
SORTS = {(peer.workload, peer.columns): peer.name for peer in PEERS.values()}


@pytest.mark.slow
@pytest.mark.parametrize("name", SORTS.values())
def test_a_name_of_every_sort_runs(name: str) -> None:
    ranks = "4" if name == "osu_mbw_mr" else "2"
    sizes = ("--size", "8") if WORKLOADS.get(PEERS[name].workload).has_sizes else ()
    ended = mpi_harness.shmbench("run", "mpi", "--ranks", ranks, "--like", name, *sizes)
    assert ended.code == 0, ended.err
    assert len([line for line in ended.out.splitlines() if line.strip()[:1].isdigit()]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--like", "osu_latency"), "--like is about MPI ranks"),
        (("run", "mpi", "--like", "osu_lat"), "did you mean osu_latency?"),
        (("run", "mpi", "--like", "osu_bw", "--channel", "spin"), "says itself what it measures"),
        (("run", "mpi", "--across-nodes"), "the job has 1 node"),
    ],
)
def test_what_does_not_go_together_is_said_once(arguments: tuple[str, ...], words: str) -> None:
    ended = mpi_harness.shmbench(*arguments)
    assert ended.code == 2
    assert ended.err.count(words) == 1
