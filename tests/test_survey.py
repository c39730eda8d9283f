"""Many nodes: who is slow, why, and what a directory of their results says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from many_nodes import find_trouble, make_nodes, plant_five, slow_down, write_nodes

from shmbench.results import ResultFile, load
from shmbench.slurm.collect import collect
from shmbench.survey import Survey, survey

SHMBENCH = [sys.executable, "-m", "shmbench"]
MEASURED = """
import resource, sys
from shmbench.cli import main
try:
    main()
finally:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak {own}", file=sys.stderr)
"""


def judged(nodes: dict[str, ResultFile], directory: Path) -> Survey:
    write_nodes(nodes, directory)
    return survey(collect([directory]))


def flagged(found: Survey) -> dict[str, str]:
    return {each.host: each.status for each in found.verdicts if each.status != "ok"}


def run_measured(*arguments: str | Path) -> tuple[subprocess.CompletedProcess[str], float, int]:
    """Run the program; gives what came of it, its seconds, and its peak memory in KiB."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    peak = int(done.stderr.rpartition("peak ")[2])
    return done, time.monotonic() - start, peak


def test_five_planted_nodes_of_500_are_found_with_their_causes_in_little_memory(
    tmp_path: Path,
) -> None:
    nodes = make_nodes(500)
    planted = plant_five(nodes)
    write_nodes(nodes, tmp_path)
    collected, collecting_s, collecting_kib = run_measured("slurm", "collect", tmp_path)
    assert collected.returncode == 1, collected.stderr
    reported, reporting_s, reporting_kib = run_measured(
        *("report", tmp_path / "collected.json", "--output", tmp_path / "report.html")
    )
    assert reported.returncode == 0, reported.stderr
    print(f"collect {collecting_s:.1f} s {collecting_kib >> 10} MiB")
    print(f"report {reporting_s:.1f} s {reporting_kib >> 10} MiB")
    assert max(collecting_kib, reporting_kib) < 500 * 1024
    found = survey(load(tmp_path / "collected.json"))
    assert set(planted) <= set(flagged(found))
    assert len(set(flagged(found)) - set(planted)) <= 1
    for verdict in found.verdicts:
        if verdict.host in planted:
            assert verdict.status == "slow"
            assert planted[verdict.host] in str(verdict.causes[0])
    for host in planted:
        assert host in collected.stdout
        assert host in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("count", [2, 3, 8, 40, 200])
def test_sound_nodes_are_not_called_slow(count: int, tmp_path: Path) -> None:
    for seed in range(3):
        assert flagged(survey(_as_collected(make_nodes(count, seed)))) == {}


def _as_collected(nodes: dict[str, ResultFile]) -> ResultFile:
    whole = next(iter(nodes.values()))
    whole.results = [result for file in nodes.values() for result in file.results]
    return whole


@pytest.mark.parametrize("count", [2, 3, 8, 40])
def test_a_node_twice_as_slow_is_found_among_few_as_well(count: int, tmp_path: Path) -> None:
    nodes = make_nodes(count)
    slow_down(nodes["n002"], 2.0)
    assert flagged(judged(nodes, tmp_path)) == {"n002": "slow"}


def test_noise_that_all_nodes_have_does_not_hide_a_slow_one_but_own_noise_does(
    tmp_path: Path,
) -> None:
    nodes = make_nodes(100)
    for host, file in nodes.items():
        for result in file.results:
            width = 1.0 if host == "n020" else 0.2
            result.ci = [
                (result.median or 0) * (1 - width / 2),
                (result.median or 0) * (1 + width / 2),
            ]
    slow_down(nodes["n010"], 1.3)
    slow_down(nodes["n020"], 1.3)
    assert flagged(judged(nodes, tmp_path)) == {"n010": "slow"}


def test_a_rack_that_is_slow_in_one_workload_is_found_as_a_whole(tmp_path: Path) -> None:
    nodes = make_nodes(100)
    rack = [f"n{number:03}" for number in range(1, 16)]
    for host in rack:
        slow_down(nodes[host], 1.5, "stream")
    assert set(flagged(judged(nodes, tmp_path))) == set(rack)


def test_other_hardware_is_not_held_against_the_rest(tmp_path: Path) -> None:
    nodes = make_nodes(30)
    for host in list(nodes)[:10]:
        nodes[host].machine["cpu_model"] = "Intel Xeon Gold 6148"
        slow_down(nodes[host], 1.6)
    slow_down(nodes["n003"], 2.0)
    found = judged(nodes, tmp_path)
    assert flagged(found) == {"n003": "slow"}
    assert [len(group.hosts) for group in found.groups] == [20, 10]
    assert found.groups[1].differs == ["cpu_model: AMD EPYC 9654 / Intel Xeon Gold 6148"]


def test_what_all_nodes_share_is_no_cause(tmp_path: Path) -> None:
    nodes = make_nodes(12)
    for file in nodes.values():
        find_trouble(file, "governor", "powersave", "cpupower")
    slow_down(nodes["n005"], 1.5)
    find_trouble(nodes["n005"], "other processes", "hog (pid 7)", "stop it")
    (slow,) = judged(nodes, tmp_path).of("slow")
    assert [str(cause) for cause in slow.causes] == ["other processes: hog (pid 7); stop it"]


def test_a_node_whose_figures_can_not_be_trusted_is_disturbed_and_not_slow(tmp_path: Path) -> None:
    nodes = make_nodes(12)
    slow_down(nodes["n005"], 3.0)
    for result in nodes["n005"].results:
        result.flags = ["untrusted", "foreign_cpu"]
    found = judged(nodes, tmp_path)
    assert flagged(found) == {"n005": "disturbed"}
    assert "24 of 24 figures are flagged foreign_cpu" in str(found.verdicts[0].causes)


def test_nodes_without_results_are_named_with_the_end_of_their_log(tmp_path: Path) -> None:
    nodes = make_nodes(6)
    write_nodes(nodes, tmp_path)
    (tmp_path / "n002.json").unlink()
    (tmp_path / "n002.log").write_text("a\nslurmstepd: Bus error\n\n")
    (tmp_path / "n003.json").write_text('{"schema": "shmb')
    nodes["n004"].plan["interrupted"] = True
    nodes["n004"].results = nodes["n004"].results[:5]
    write_nodes({"n004": nodes["n004"]}, tmp_path)
    (tmp_path / "expected").write_text("\n".join(nodes))
    found = survey(collect([tmp_path]))
    assert flagged(found) == {"n002": "failed", "n003": "failed", "n004": "incomplete"}
    errors = {each.host: each.error or "" for each in found.verdicts}
    assert errors["n002"] == "it left no results; its log ends: slurmstepd: Bus error"
    assert "not a result file" in errors["n003"]
    assert "cut short" in errors["n004"]


def test_what_was_measured_twice_counts_once_and_the_newer_whole_one_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory, created, factor in ((first, "2026-01-01", 1.0), (second, "2026-01-02", 1.1)):
        directory.mkdir()
        nodes = make_nodes(3)
        for file in nodes.values():
            file.created = created
            slow_down(file, factor)
        if directory is second:
            nodes["n002"].results[0].median = None
        write_nodes(nodes, directory)
    merged = collect([second, first])
    assert len(merged.results) == 3 * 24
    by_case = {(result.host, result.case().label()): result for result in merged.results}
    label = merged.results[0].case().label()
    old, new = load(first / "n001.json").results[0], load(second / "n001.json").results[0]
    assert by_case["n001", label].median == new.median != old.median
    assert by_case["n002", label].median == load(first / "n002.json").results[0].median


def test_collecting_again_takes_its_own_output_for_no_node(tmp_path: Path) -> None:
    write_nodes(make_nodes(4), tmp_path)
    for _ in range(2):
        done = subprocess.run(
            [*SHMBENCH, "slurm", "collect", tmp_path], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "collected.json").read_text())
    assert [node["host"] for node in document["nodes"]] == ["n001", "n002", "n003", "n004"]
    assert document["machine"]["cpu_model"] == "AMD EPYC 9654"
    assert document["machine"]["hostname"] is None
    assert "4 nodes: 4 ok" in done.stdout
