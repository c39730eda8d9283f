"""Jobs on a real Slurm of two simulated nodes, which share this machine's CPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mpi_harness import launcher
from slurm_harness import Cluster, document, running_cluster, wait_for

from shmbench.results import load
from shmbench.survey import survey

QUICK = ("--", "--quick", "--budget", "4")
LONG = ("--", "--workload", "ping_pong,first_touch", "--budget", "300")

# Another process beside the tasks of n2, on each CPU, as long as they run.
HOG = """#!/bin/bash
[[ $SLURMD_NODENAME == n2 ]] || exit 0
for cpu in $(seq 0 $(($(nproc) - 1))); do
  taskset -c $cpu timeout 100 {python} -c 'while True: pass' > /dev/null 2>&1 < /dev/null &
  echo $! >> {pids}
done
sleep 0.3
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


def in_shm() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def tasks_of(node: str, mark: Path) -> list[int]:
    """The processes of a node's task that write below `mark`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0")
            if {f"SLURMD_NODENAME={node}".encode(), f"results={mark}".encode()} <= set(variables):
                found.append(int(process.name))
    return found


def test_a_survey_gives_one_file_of_both_nodes_and_flags_the_one_with_a_hog(
    cluster: Cluster, tmp_path: Path
) -> None:
    prolog, pids = cluster.directory / "task_prolog.sh", tmp_path / "hogs"
    prolog.write_text(HOG.format(python=sys.executable, pids=pids))
    prolog.chmod(0o755)
    try:
        done = cluster.slurm(
            *("submit", "survey", "--nodes", "2", "--at-a-time", "1", "--wait"),
            *("--", "--workload", "ping_pong,core_to_core", "--quick", "--budget", "4"),
            cwd=tmp_path,
        )
    finally:
        prolog.unlink()
        for pid in pids.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "COMPLETED; results: 2 done" in done.stdout
    (directory,) = (tmp_path / "shmbench-jobs").iterdir()
    assert cluster.slurm("collect", directory, cwd=tmp_path).returncode == 1
    collected = load(directory / "collected.json")
    assert {result.host for result in collected.results} == {"n1", "n2"}
    assert [node.error for node in collected.nodes or ()] == [None, None]
    # Of n1 nothing is said: whatever else this machine does at the moment may disturb it alike.
    (slowed,) = (each for each in survey(collected).verdicts if each.host == "n2")
    assert slowed.status in ("slow", "disturbed")
    (others,) = (check for check in slowed.node.doctor if check["name"] == "other processes")
    assert "python" in str(others["found"])
    report = tmp_path / "report.html"
    assert (
        cluster.run(
            *(sys.executable, "-m", "shmbench", "report"),
            *(directory / "collected.json", "--output", report),
        ).returncode
        == 0
    )
    assert "2 nodes compared" in report.read_text()


@pytest.mark.parametrize(
    "command", ["srun --mpi=pmi2", pytest.param("mpirun", marks=pytest.mark.slow)]
)
def test_an_mpi_job_over_two_nodes_writes_the_results_of_both(
    cluster: Cluster, tmp_path: Path, command: str
) -> None:
    if command == "mpirun":
        command = launcher().mpiexec
    names = in_shm()
    done = cluster.slurm(
        *("submit", "mpi", "--nodes", "2", "--launcher", command, "--wait", *QUICK),
        *("--one-node-at-a-time", "--workload", "ping_pong", "--channel", "mpi_p2p", "--size", "8"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (directory,) = (tmp_path / "shmbench-jobs").iterdir()
    written = document(directory / "mpi.json")
    assert [node["host"] for node in written["nodes"]] == ["n1", "n2"]
    assert [node["machine"]["hostname"] for node in written["nodes"]] == ["n1", "n2"]
    assert all(node["doctor"] for node in written["nodes"])
    results = written["results"]
    assert {result["host"] for result in results} == {"n1", "n2"}
    assert all(result["mpi"]["job_ranks"] == 4 and not result["error"] for result in results)
    assert in_shm() <= names


def test_scancel_leaves_what_was_measured_and_nothing_else(
    cluster: Cluster, tmp_path: Path
) -> None:
    names = in_shm()
    job_id, directory = cluster.submit("survey", "--nodes", "2", *LONG, cwd=tmp_path)
    for node in ("n1", "n2"):
        wait_for(directory / f"{node}.json")
    cluster.run("scancel", job_id)
    assert cluster.await_state(job_id, "CANCELLED") == "CANCELLED"
    shown = cluster.slurm("status", directory, cwd=tmp_path).stdout
    assert "CANCELLED" in shown
    assert "2 partial (n1, n2)" in shown
    collected = cluster.slurm("collect", directory, cwd=tmp_path)
    assert collected.returncode == 1
    for node in ("n1", "n2"):
        file = load(directory / f"{node}.json")
        assert file.plan["interrupted"]
        assert file.doctor
        assert all(result.error is None for result in file.results)
        assert tasks_of(node, directory) == []
        assert "cut short" in collected.stdout
    assert in_shm() <= names


@pytest.mark.slow
def test_a_node_whose_task_is_killed_is_named_and_the_other_goes_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    names = in_shm()
    job_id, directory = cluster.submit(
        *("survey", "--nodes", "2", "--", "--workload", "ping_pong", "--budget", "8"), cwd=tmp_path
    )
    wait_for(directory / "n2.json")
    for pid in tasks_of("n2", directory):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cluster.await_state(job_id, "FAILED")
    found = {each.host: each for each in survey(load(_collect(cluster, directory))).verdicts}
    assert "cut short" in (found["n2"].error or "")
    assert found["n1"].error is None
    subprocess.run([sys.executable, "-m", "shmbench", "clean"], check=True, capture_output=True)
    assert in_shm() <= names


def _collect(cluster: Cluster, directory: Path) -> Path:
    cluster.slurm("collect", directory, cwd=directory)
    return directory / "collected.json"


@pytest.mark.slow
def test_before_the_time_limit_the_job_ends_by_itself_with_partial_results(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = in_shm()
    # Slurm looks every 30 s and signals up to 30 s early: 10 to 40 s after the start.
    monkeypatch.setenv("SBATCH_SIGNAL", "TERM@20")
    job_id, directory = cluster.submit(
        *("survey", "--nodes", "1", "--time", "1", *LONG), cwd=tmp_path
    )
    cluster.await_state(job_id, "FAILED", "TIMEOUT", timeout_s=100)
    file = load(directory / "n1.json")
    assert file.plan["interrupted"]
    assert any(result.samples for result in file.results)
    assert "interrupted" in (directory / "n1.log").read_text()
    assert in_shm() <= names


@pytest.mark.slow
def test_a_requeued_task_of_an_array_counts_once(cluster: Cluster, tmp_path: Path) -> None:
    job_id, directory = cluster.submit(
        *("array", "--values", "8,4K", "--", "--workload", "ping_pong", "--channel", "spin"),
        *("--driver", "native", "--budget", "4"),
        cwd=tmp_path,
    )
    wait_for(directory / "task-0.json")
    assert cluster.run("scontrol", "requeue", f"{job_id}_0").returncode == 0
    time.sleep(1)
    cluster.await_state(job_id, "COMPLETED", timeout_s=90)
    results = load(_collect(cluster, directory)).results
    sizes = [result.message_bytes for result in results if result.workload == "ping_pong"]
    assert sorted(size or 0 for size in sizes) == [8, 4096]


def test_sbatch_itself_accepts_each_kind(cluster: Cluster, tmp_path: Path) -> None:
    for kind in ("node", "survey", "mpi", "array", "nightly"):
        done = cluster.slurm("submit", kind, "--test-only", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "to start at" in done.stdout
    refused = cluster.slurm("submit", "survey", "--partition", "nowhere", cwd=tmp_path)
    assert refused.returncode == 1
    assert "invalid partition specified: nowhere" in refused.stderr
    assert list(tmp_path.rglob("*")) == [tmp_path / "shmbench-jobs"]


def test_a_directory_with_every_odd_character_but_percent_works(
    cluster: Cluster, tmp_path: Path
) -> None:
    odd = tmp_path / "a b$HOME`id`'\"#*;&|é"
    odd.mkdir()
    job_id, directory = cluster.submit(
        *("array", "--values", "8", "--directive", "--comment=two words", "--env", "ODD=$(id) '\""),
        *("--", "--workload", "core_to_core", "--quick", "--budget", "1"),
        cwd=odd,
    )
    cluster.await_state(job_id, "COMPLETED")
    assert directory.parent.parent == odd
    assert load(directory / "task-0.json").plan["interrupted"] is False
    shown = cluster.run("scontrol", "show", "job", job_id).stdout
    assert "Comment=two words" in shown
    (odd / "100%j").mkdir()
    refused = cluster.slurm("submit", "survey", cwd=odd / "100%j")
    assert refused.returncode == 2
    assert "% or a backslash" in refused.stderr


def test_the_fixture_leaves_nothing_when_the_test_run_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom slurm_harness import running_cluster\n"
        "with running_cluster() as cluster:\n"
        "    cluster.run('sbatch', '--wrap', 'sleep 1000')\n"
        "    print(cluster.directory, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    directory = killed.stdout.strip()
    assert directory, killed.stderr
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (Path(directory).exists() or _named(directory)):
        time.sleep(0.1)
    assert not Path(directory).exists()
    assert _named(directory) == []


def _named(directory: str) -> list[str]:
    """Processes that have the directory in their environment or command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            text = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            if directory.encode() in text:
                found.append(process.name)
    return found
