"""A real Slurm for tests, and the program run against it. See `slurm_cluster`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import slurm_cluster
from mpi_harness import environment
from needs import need

SHMBENCH = [sys.executable, "-m", "shmbench"]


class Cluster:
    """Two simulated nodes, n1 and n2, which share this machine.

    Attributes:
        directory: Slurm's own.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = environment({"SLURM_CONF": str(directory / "slurm.conf")})

    def run(
        self, *command: str | Path, cwd: Path | None = None, timeout_s: float = 110
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def slurm(self, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """`shmbench slurm ...`."""
        return self.run(*SHMBENCH, "slurm", *arguments, cwd=cwd)

    def submit(self, *arguments: str, cwd: Path) -> tuple[str, Path]:
        """Submit; gives the job's id and directory."""
        done = self.slurm("submit", *arguments, cwd=cwd)
        assert done.returncode == 0, done.stderr
        job_id, _, directory = done.stdout.splitlines()[0].removeprefix("job ").partition(": ")
        return job_id, Path(directory)

    def await_state(self, job_id: str, *states: str, timeout_s: float = 60) -> str:
        """Wait until all tasks of a job are in one of these states."""
        deadline = time.monotonic() + timeout_s
        while True:
            asked = ["squeue", "-h", "-r", "-t", "all", "-j", job_id, "-o", "%T"]
            found = set(self.run(*asked).stdout.split())
            if found and found <= set(states):
                return ", ".join(found)
            assert not found & {"FAILED", "TIMEOUT"} - set(states), f"job {job_id} is {found}"
            assert time.monotonic() < deadline, f"job {job_id} is {found}"
            time.sleep(0.1)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Brought up, and taken down whatever happens: its supervisor waits for the end of our pipe."""
    lacking = slurm_cluster.missing()
    need(
        not lacking,
        f"there is no Slurm here: {', '.join(lacking)}",
        "apt-get install --no-install-recommends munge slurmctld slurmd slurm-client",
    )
    need(os.getuid() == 0, "Slurm's daemons run jobs of other users", "run the tests as root")
    directory = Path(tempfile.mkdtemp(prefix="shmbench-slurm-"))
    supervisor = subprocess.Popen(
        [sys.executable, slurm_cluster.__file__, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    try:
        assert supervisor.stdout.readline(), "slurm did not come up"
        yield Cluster(directory)
    finally:
        supervisor.stdin.close()
        supervisor.wait(30)
        supervisor.stdout.close()
        assert not directory.exists()


def wait_for(path: Path, timeout_s: float = 60) -> None:
    """Until a result file has a figure in it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError):
            if any(result["samples"] for result in json.loads(path.read_text())["results"]):
                return
        time.sleep(0.05)
    raise AssertionError(f"{path} has no figure")


def document(path: Path) -> dict[str, Any]:
    """A result file, as JSON has it."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
