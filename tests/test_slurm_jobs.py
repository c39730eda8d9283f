"""Jobs and their directories, with Slurm's commands played by scripts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from many_nodes import make_nodes, write_nodes

from shmbench.cli import cli
from shmbench.errors import Unavailable, UsageError
from shmbench.slurm import jobs

FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for commands, first on the PATH."""
    directory = tmp_path / "tools"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def play(tools: Path, name: str, text: str) -> None:
    (tools / name).write_text(f"#!/bin/bash\n{text}\n")
    (tools / name).chmod(0o755)


@pytest.fixture
def job(tools: Path, tmp_path: Path) -> Path:
    """A submitted survey of three nodes."""
    play(tools, "sbatch", "echo '12;cluster'")
    directory = jobs.new_directory(tmp_path / "jobs", "survey")
    jobs.submit("#!/bin/bash\n", "survey", directory, None)
    return directory


def test_a_job_is_kept_with_its_script_and_id(job: Path) -> None:
    assert jobs.record_of(job).job_id == "12"
    assert (job / "job.sh").read_text() == "#!/bin/bash\n"
    assert {path.name for path in job.iterdir()} == {"job.sh", "job.json"}


def test_what_sbatch_refuses_leaves_no_directory(tools: Path, tmp_path: Path) -> None:
    play(tools, "sbatch", "echo 'sbatch: error: no such account' >&2; exit 1")
    directory = jobs.new_directory(tmp_path / "jobs", "survey")
    with pytest.raises(jobs.SlurmFailed, match="no such account"):
        jobs.submit("#!/bin/bash\n", "survey", directory, None)
    assert not directory.exists()


def test_a_machine_without_slurm_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="there is no squeue here"):
        jobs.tasks("12")


@pytest.mark.parametrize(
    ("states", "failed"),
    [
        (("COMPLETED",), False),
        (("COMPLETED", "TIMEOUT"), True),
        (("NODE_FAIL",), True),
        (("OUT_OF_MEMORY",), True),
        ((), False),
    ],
)
def test_a_job_that_slurm_has_forgotten_is_judged_by_its_files(
    tools: Path, job: Path, states: tuple[str, ...], failed: bool
) -> None:
    lines = "\n".join(f"12_{number}|{state}|1:00|5:00|None" for number, state in enumerate(states))
    play(tools, "squeue", f"echo '{lines}'" if states else FORGOTTEN)
    write_nodes(make_nodes(3), job)
    shown: list[tuple[float, str]] = []
    jobs.follow(job, lambda share, text: shown.append((share, text)))
    assert shown[-1][0] == 1.0
    assert jobs.failed(job) is failed
    (job / "n002.json").unlink()
    assert jobs.failed(job) is True
    assert "2 done, 1 waiting (n002)" in jobs.row(job)[-1]


def test_following_goes_on_until_the_job_has_ended_and_through_a_silent_controller(
    tools: Path, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_POLL_S", 0.01)
    states = ("PENDING", "RUNNING", "", "REQUEUE_HOLD", "COMPLETING", "COMPLETED")
    turn = job / "turn"
    cases = "\n".join(
        f"{number}) echo '12|{state}|1:00|5:00|None';;"
        if state
        else f"{number}) echo 'Unable to contact slurm controller' >&2; exit 1;;"
        for number, state in enumerate(states)
    )
    play(
        tools,
        "squeue",
        f"n=$(cat '{turn}' 2> /dev/null || echo 0); echo $((n + 1)) > '{turn}'\n"
        f"case $n in\n{cases}\nesac",
    )
    assert jobs.follow(job, lambda share, text: None) == "COMPLETED; results: none yet"
    assert turn.read_text().strip() == str(len(states))


def test_a_directory_that_is_no_job_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the directory of a submitted job"):
        jobs.record_of(tmp_path)


def test_status_shows_all_jobs_below_the_working_directory(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    play(tools, "sbatch", "echo 7")
    play(tools, "squeue", "echo '7|PENDING|0:00|15:00|Resources'")
    assert CliRunner().invoke(cli, ["slurm", "status"]).exit_code != 0
    submitted = CliRunner().invoke(cli, ["slurm", "submit", "mpi", "--nodes", "2"])
    assert submitted.exit_code == 0, submitted.output
    shown = CliRunner().invoke(cli, ["slurm", "status"]).output
    for part in ("7", "PENDING", "0:00 of 15:00", "Resources", "none yet"):
        assert part in shown
