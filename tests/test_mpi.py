"""MPI jobs, really launched: contracts of channels and regions, runs, failures, clearing up."""

from __future__ import annotations

import json
import mmap
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mpi_harness
import pytest
from needs import need

from shmbench.channels import CHANNELS
from shmbench.clean import mpi_leftovers
from shmbench.errors import Unavailable
from shmbench.group.mpi_control import lifeline
from shmbench.launch import Launcher, find_launcher, probe, sizes_of_a_job, started_ranks
from shmbench.results import FIXED_KEYS

HERE = Path(__file__).parent
CONTRACT, FAULTS = str(HERE / "mpi_contract.py"), str(HERE / "mpi_faults.py")
MPI_CHANNELS = [name.partition("/")[2] for name in CHANNELS.names() if "/mpi_" in name]
BRIEF = ("--quick", "--budget", "0.5")
DEBIAN_OPENMPI = Path("/usr/lib/x86_64-linux-gnu/libmpi.so.40")


def run_pair(tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    output = tmp_path / "r.json"
    ended = mpi_harness.shmbench(
        *("run", "--launcher", "mpi", "--output", str(output)), *BRIEF, *options
    )
    assert ended.code == 0, ended.err + ended.out
    return mpi_harness.results_of(output)


def test_channels_and_regions_keep_their_contracts_between_mpi_ranks() -> None:
    ended = mpi_harness.mpirun(3, [CONTRACT])
    assert ended.code == 0, ended.err
    for kind in MPI_CHANNELS:
        assert f"channel {kind}\n" in ended.out


def test_the_launcher_started_by_us_measures_and_says_which_mpi_it_was(tmp_path: Path) -> None:
    found = run_pair(
        tmp_path, "--workload", "ping_pong", "--channel", "spin,mpi_p2p", "--size", "8"
    )
    by_channel = {result["channel"]: result for result in found}
    assert set(by_channel) == {"spin", "mpi_p2p", None}
    assert by_channel["spin"]["region"] == "mpi_window"
    assert by_channel["spin"]["limit"]["name"] == "core_to_core"
    assert by_channel[None]["region"] == "memfd"
    for result in found:
        assert set(FIXED_KEYS) <= set(result)
        assert result["error"] is None
        assert result["launcher"] == "mpi"
        assert "same_processes" in result["flags"]
        assert result["mpi"]["job_ranks"] == 2
        assert Path(result["mpi"]["library"]).exists()
        assert result["mpi"]["vendor"] == probe()["vendor"]


@pytest.mark.parametrize("ranks", [*(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4)), 8])
def test_more_ranks_than_cpus_share_them_and_say_so(tmp_path: Path, ranks: int) -> None:
    found = run_pair(
        tmp_path,
        *("--ranks", str(ranks), "--workload", "barrier,fan_out", "--size", "8"),
        *("--channel", "spin"),
    )
    for result in found:
        assert result["error"] is None
        assert result["ranks"] == ranks
        crowded = ranks > len(os.sched_getaffinity(0))
        assert ("oversubscribed" in result["flags"]) == crowded


def test_collectives_are_right_by_mpi_and_by_hand(tmp_path: Path) -> None:
    found = run_pair(
        tmp_path,
        *("--ranks", "3", "--size", "8,1000", "--workload"),
        "bcast,allreduce,allgather,alltoall,collective_barrier",
    )
    assert len(found) == 2 * (4 * 2 + 1)
    assert all(result["error"] is None for result in found)


def test_a_job_of_one_rank_is_refused_once_with_the_remedy() -> None:
    ended = mpi_harness.shmbench("run", "mpi", "--ranks", "1")
    assert ended.code == 2
    assert ended.err.count("shmbench: an MPI job with 1 rank") == 1


def test_wrong_options_are_said_once_by_all_ranks_together() -> None:
    ended = mpi_harness.shmbench("run", "mpi", "--workload", "pingpong")
    assert ended.code == 2
    assert ended.err.count("did you mean ping_pong?") == 1


def test_ranks_that_are_alone_each_are_told_whose_mpiexec_is_wrong() -> None:
    mpi_harness.launcher()
    program = [sys.executable, "-m", "mpi4py", "-m", "shmbench", "run", "mpi"]
    ended = mpi_harness.run(program, {"OMPI_COMM_WORLD_SIZE": "4"})
    assert ended.code == 2
    assert "4 ranks were started" in ended.err
    assert "each is alone" in ended.err


def test_ranks_started_without_mpi4py_are_told_how_to_start() -> None:
    ended = mpi_harness.shmbench("run", "quick", extra={"PMI_SIZE": "2"})
    assert ended.code == 2
    assert "python -m mpi4py -m shmbench" in ended.err


def test_the_launcher_found_belongs_to_the_library() -> None:
    found = mpi_harness.launcher()
    if found.mpi["provider"] == "wheel":
        assert Path(found.mpiexec).parent == Path(sys.executable).parent
    shown = subprocess.run([found.mpiexec, "--version"], capture_output=True, text=True, check=True)
    assert ("Open MPI" in shown.stdout) == (found.mpi["vendor"] == "Open MPI")


def test_the_doctor_tells_the_mpi_its_launcher_and_whether_ranks_find_each_other() -> None:
    found = mpi_harness.launcher()
    ended = mpi_harness.shmbench("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(ended.out)}
    for part in (found.mpi["vendor"], found.mpi["version"], found.mpi["provider"]):
        assert part in checks["MPI"]["found"]
    assert found.mpi["library"] in checks["MPI"]["found"]
    assert found.mpiexec in checks["mpiexec"]["found"]
    assert checks["MPI job"]["status"] == "ok"


def test_a_launcher_of_another_mpi_is_seen_by_the_sizes_of_its_ranks(tmp_path: Path) -> None:
    found = mpi_harness.launcher()
    alone = tmp_path / "mpiexec"  # starts ranks that don't know of each other, as a wrong one does
    alone.write_text('#!/bin/sh\nshift 2\n"$@" && "$@"\n')
    alone.chmod(0o755)
    wrong = Launcher(found.mpi, str(alone), (), {})
    assert sizes_of_a_job(wrong, 2) == [1, 1]
    assert sizes_of_a_job(found, 2) == [2, 2]
    alone.write_text("#!/bin/sh\necho no such host >&2; exit 3\n")
    with pytest.raises(Unavailable, match="no such host"):
        sizes_of_a_job(wrong, 2)


def test_a_job_is_probed_on_this_host_from_within_a_job_of_slurm_or_of_mpi(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (
        ("SLURM_JOB_ID", "1"),
        ("SLURM_NNODES", "2"),
        ("SLURM_NODELIST", "n[1-2]"),
        ("SLURM_TASKS_PER_NODE", "2(x2)"),
        ("PMI_SIZE", "2"),
        ("PMI_RANK", "0"),
        ("PMI_FD", "99"),
    ):
        monkeypatch.setenv(name, value)
    assert sizes_of_a_job(mpi_harness.launcher(), 2) == [2, 2]


def test_without_an_mpi_library_the_remedy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPI4PY_LIBMPI", "/nonexistent/libmpi.so")
    with pytest.raises(Unavailable, match=r'pip install "shmbench\[mpi\]"'):
        find_launcher()


def test_the_number_of_started_ranks_is_read_from_any_launcher() -> None:
    assert started_ranks({}) is None
    assert started_ranks({"PMI_SIZE": "3"}) == 3
    assert started_ranks({"OMPI_COMM_WORLD_SIZE": "4", "PMI_SIZE": "x"}) == 4


def run_faulty(
    tmp_path: Path, fault: str, rank: int, timeout_s: float = 30.0
) -> tuple[mpi_harness.Ended, list[dict[str, Any]]]:
    """Three ranks, of which one fails in the second case; what is left of them is nothing."""
    output, mark = tmp_path / "r.json", secrets.token_hex(16)
    before = set(mpi_leftovers(least_age_s=0))
    ended = mpi_harness.mpirun(
        3,
        [
            *(FAULTS, fault, str(rank), "run", "--workload", "core_to_core,faulty"),
            *("--quick", "--budget", "2", "--timeout", str(timeout_s), "--output", str(output)),
        ],
        {"SHMBENCH_TEST": mark},
    )
    assert ended.code != 0
    deadline = time.monotonic() + 5
    while mpi_harness.processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mpi_harness.processes_with(mark) == []
    assert set(mpi_leftovers(least_age_s=0)) <= before
    return ended, mpi_harness.results_of(output)


@pytest.mark.parametrize(
    ("fault", "rank", "words"),
    [
        ("raise", 1, "rank 1 raised RuntimeError: on purpose"),
        pytest.param("raise", 0, "rank 0 raised RuntimeError", marks=pytest.mark.slow),
        pytest.param("exit", 2, "rank 2 raised SystemExit: 3", marks=pytest.mark.slow),
        pytest.param("abort", 1, "rank 1 (process", marks=pytest.mark.slow),
        ("kill", 2, "rank 2 (process"),
        ("kill", 0, "rank 0 (process"),
    ],
)
def test_one_rank_that_fails_ends_the_job_and_is_named(
    tmp_path: Path, fault: str, rank: int, words: str
) -> None:
    ended, results = run_faulty(tmp_path, fault, rank)
    assert words in ended.err
    done, failed = results
    assert done["median"] > 0
    assert failed["workload"] == "faulty"
    assert words in failed["error"]["message"]


def test_a_lifeline_tells_a_death_before_the_connection_to_the_launcher_does() -> None:
    def order_of_death() -> list[str]:
        ours, launchers = socket.socketpair()
        with ours, launchers:
            reading, writing = lifeline()
            child = os.fork()
            if child == 0:
                launchers.close()
                os.close(reading)
                time.sleep(60)
                os._exit(0)
            ours.close()
            os.close(writing)
            process = os.pidfd_open(child)
            names = {process: "process", launchers.fileno(): "connection", reading: "lifeline"}
            with select.epoll() as epoll:
                for descriptor in names:
                    epoll.register(descriptor, select.EPOLLIN)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                order = [names[descriptor] for descriptor, _ in epoll.poll(1)]
            os.close(process)
            os.close(reading)
            return order

    for _ in range(20):
        assert order_of_death() == ["lifeline", "connection", "process"]


@pytest.mark.parametrize("fault", ["stop", pytest.param("hang", marks=pytest.mark.slow)])
def test_a_rank_that_hangs_ends_the_job_with_the_time_out_and_is_named(
    tmp_path: Path, fault: str
) -> None:
    ended, (_, failed) = run_faulty(tmp_path, fault, 1, timeout_s=4.0)
    assert "no answer from rank 1 within" in ended.err
    assert failed["error"]["type"] == "CaseTimeout"


@pytest.mark.slow
def test_mpi_abort_ends_the_job_and_leaves_nothing(tmp_path: Path) -> None:
    # What is written to stderr then may go down with the launcher; the result file doesn't.
    _, (done, failed) = run_faulty(tmp_path, "mpi_abort", 1)
    assert done["median"] > 0
    assert failed["error"]["type"] == "PeerFailed"
    assert "ended before its time" in failed["error"]["message"]


def test_a_case_that_fails_in_all_ranks_costs_that_case_only(tmp_path: Path) -> None:
    ended, (done, failed) = run_faulty(tmp_path, "everywhere", 0)
    assert ended.code == 1
    assert done["error"] is None
    assert failed["error"]["type"] == "ValidationFailed"


def test_a_rank_killed_from_outside_while_all_spin_ends_the_job(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    options = ("--workload", "ping_pong", "--channel", "spin", "--size", "8", "--budget", "60")
    mpi_harness.launcher()
    struck = mpi_harness.strike(
        1,
        output,
        [
            *(sys.executable, "-m", "shmbench", "run", "--launcher", "mpi", *options),
            *("--output", str(output)),
        ],
    )
    assert struck.ended.code == 1
    assert "rank 1 (process" in struck.ended.err
    assert struck.left == []
    messages = [r["error"]["message"] for r in mpi_harness.results_of(output) if r["error"]]
    assert any("rank 1" in message for message in messages)


@pytest.mark.parametrize(
    "order", [[], pytest.param(["--one-node-at-a-time"], marks=pytest.mark.slow)]
)
def test_each_node_of_a_job_measures_for_itself(tmp_path: Path, order: list[str]) -> None:
    if mpi_harness.launcher().mpi["vendor"] != "MPICH":
        need(False, "only MPICH can play several nodes on one machine", "install the mpich wheel")
    output = tmp_path / "r.json"
    ended = mpi_harness.mpirun(
        4,
        [
            *("-m", "shmbench", "run", "--workload", "ping_pong", "--channel", "futex,mpi_p2p"),
            *("--size", "8", "--output", str(output), *BRIEF, *order),
        ],
        {"MPIR_CVAR_NUM_CLIQUES": "2"},
    )
    assert ended.code == 0, ended.err
    found = mpi_harness.results_of(output)
    assert len(found) == 6
    assert all(result["host"] and result["median"] for result in found)
    # Here both have one name, and so they stand there as one.
    (node,) = json.loads(output.read_text())["nodes"]
    assert node["host"] == found[0]["host"]
    assert node["machine"]["cpu_model"]


def test_what_an_mpi_library_left_is_known_by_its_name_and_taken_when_nobody_has_it(
    tmp_path: Path,
) -> None:
    for name in (
        "mpich_shm_1a_0",
        "mpich_shar_tmpA1b2C3",
        "sm_segment.vm.0.1a.0",
        "somebody_elses",
    ):
        (tmp_path / name).write_bytes(bytes(4096))
    everything = {"mpich_shm_1a_0", "mpich_shar_tmpA1b2C3", "sm_segment.vm.0.1a.0"}

    def found(age_s: float = 0.0) -> set[str]:
        return {path.name for path in mpi_leftovers(tmp_path, age_s)}

    assert found() == everything
    assert found(60) == set()  # a rank may be about to map it
    with (tmp_path / "mpich_shm_1a_0").open("r+b") as file:
        assert found() == everything - {"mpich_shm_1a_0"}
        mapping = mmap.mmap(file.fileno(), 4096)
    assert found() == everything - {"mpich_shm_1a_0"}
    mapping.close()
    assert found() == everything


def test_the_distributions_open_mpi_works_through_the_same_mpi4py(tmp_path: Path) -> None:
    need(
        DEBIAN_OPENMPI.exists() and Path("/usr/bin/mpiexec.openmpi").exists(),
        "Debian's Open MPI is not installed",
        "apt-get install openmpi-bin libopenmpi3",
    )
    output = tmp_path / "r.json"
    ended = mpi_harness.shmbench(
        *("run", "--launcher", "mpi", "--workload", "ping_pong", "--size", "8", *BRIEF),
        *("--channel", "futex,mpi_p2p,mpi_rma_put,mpi_rma_atomic", "--output", str(output)),
        extra={"MPI4PY_LIBMPI": str(DEBIAN_OPENMPI)},
    )
    by_channel = {result["channel"]: result for result in mpi_harness.results_of(output)}
    assert by_channel["futex"]["mpi"]["vendor"] == "Open MPI"
    assert by_channel["futex"]["mpi"]["provider"] == "distribution"
    assert by_channel["futex"]["mpi"]["thread_level"] == "multiple"
    for channel in ("futex", "mpi_p2p", "mpi_rma_put"):
        assert by_channel[channel]["error"] is None, ended.err
    assert "osc/rdma" in by_channel["mpi_rma_atomic"]["error"]["message"]
