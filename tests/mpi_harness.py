"""MPI jobs for tests: always subprocesses, in a session of their own, and never outlived.

mpi4py.MPI is never imported in the test runner itself: importing it starts MPI.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
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


def run(command: list[str], extra: Mapping[str, str] | None = None) -> Ended:
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
        out, err = process.communicate(timeout=DEADLINE_S)
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


def shmbench(*arguments: str, extra: Mapping[str, str] | None = None) -> Ended:
    """Run the command line in one process, as a user does."""
    launcher()
    return run([sys.executable, "-m", "shmbench", *arguments], extra)


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
