"""MPI jobs for tests: always subprocesses, in a session of their own, and never outlived.

mpi4py.MPI is never imported in the test runner itself: importing it starts MPI.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from needs import need

from shmbench.errors import Unavailable
from shmbench.launch import Launcher, find_launcher

HERE = Path(__file__).parent
DEADLINE_S = 60.0
_LAUNCHERS_VARIABLES = ("OMPI_", "PMIX_", "PMI_", "SLURM_", "HYDRA_", "MPI4PY_")


@dataclass
class Ended:
    """What came of a job."""

    code: int
    out: str
    err: str


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without what a launcher around the tests has set."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(_LAUNCHERS_VARIABLES)}
    return own | dict(extra or {})


def launcher() -> Launcher:
    """The MPI of this environment; skips where there is none."""
    try:
        return find_launcher()
    except Unavailable as why:
        need(False, why.message, why.remedy or "")
        raise


def run(
    command: list[str], extra: Mapping[str, str] | None = None, deadline_s: float = DEADLINE_S
) -> Ended:
    """Run to the end, or end it: TERM first, then KILL, for its whole session."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=environment(extra),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=5)
                break
        raise
    return Ended(process.returncode, out, err)


def mpirun(ranks: int, program: list[str], extra: Mapping[str, str] | None = None) -> Ended:
    """Run `python -m mpi4py PROGRAM` in so many ranks."""
    found = launcher()
    return run(found.command(ranks, program), {**found.environment, **(extra or {})})


def shmbench(
    *arguments: str, extra: Mapping[str, str] | None = None, deadline_s: float = DEADLINE_S
) -> Ended:
    """Run the command line in one process, as a user does."""
    launcher()
    return run([sys.executable, "-m", "shmbench", *arguments], extra, deadline_s)


@dataclass
class Struck:
    """What came of a job of which a rank was killed while it measured.

    Attributes:
        after_s: how long the job was there after the kill.
        left: processes of the job that were there after it.
    """

    ended: Ended
    after_s: float
    left: list[str]


def strike(
    rank: int, output: Path, command: list[str], extra: Mapping[str, str] | None = None
) -> Struck:
    """Run a command that starts a job, and kill a rank of it once the result file is there."""
    mark = secrets.token_hex(16)
    killed_at = 0.0

    def kill() -> None:
        nonlocal killed_at
        deadline = time.monotonic() + DEADLINE_S / 2
        while time.monotonic() < deadline and not output.exists():
            time.sleep(0.02)
        time.sleep(0.3)
        names = {f"{name}={rank}".encode() for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK")}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                variables = set((process / "environ").read_bytes().split(b"\0"))
                if f"SHMBENCH_TEST={mark}".encode() in variables and names & variables:
                    os.kill(int(process.name), signal.SIGKILL)
                    killed_at = time.monotonic()

    striker = threading.Thread(target=kill)
    striker.start()
    ended = run(command, {**(extra or {}), "SHMBENCH_TEST": mark})
    now = time.monotonic()
    striker.join()
    assert killed_at, ended.err
    while (left := processes_with(mark)) and time.monotonic() < now + 5:
        time.sleep(0.01)
    return Struck(ended, now - killed_at, left)


def results_of(path: Path) -> list[dict[str, Any]]:
    """The results in a file."""
    found: list[dict[str, Any]] = json.loads(path.read_text())["results"]
    return found


def processes_with(mark: str) -> list[str]:
    """The living processes that have this text in their environment, by their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found
