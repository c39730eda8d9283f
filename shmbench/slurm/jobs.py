"""Jobs and their directories: submit one, ask Slurm how it is, see what it has written.

A job's directory holds the script, what is known of the job (job.json), its log, and the results.
Slurm forgets a job some minutes after its end; then the directory alone says how it went.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from shmbench.errors import ShmbenchError, Unavailable, UsageError

JOB_FILE = "job.json"
SCRIPT = "job.sh"
EXPECTED = "expected"
_SLURM_S = 60.0
_POLL_S = 1.0
_SILENT_S = 60.0  # a controller may be restarted
_NAMES_SHOWN = 5
_BAD = (
    *("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "DEADLINE"),
    *("BOOT_FAIL", "LAUNCH_FAILED", "REVOKED"),
)


class SlurmFailed(ShmbenchError):
    """A command of Slurm's refused; the message is its own."""


class JobRecord(msgspec.Struct, kw_only=True):
    """What stands in job.json."""

    kind: str
    job_id: str
    submitted: str
    system: str | None = None


@dataclass(frozen=True)
class Task:
    """A job, or one task of an array, as squeue has it."""

    job_id: str
    state: str
    elapsed: str
    limit: str
    reason: str

    @property
    def ended(self) -> bool:
        return self.state == "COMPLETED" or self.state in _BAD


@dataclass(frozen=True)
class Part:
    """One file of results that a job is to write.

    Attributes:
        state: "waiting": there is no file yet; "partial": its run goes on, or was cut short.
    """

    name: str
    state: Literal["waiting", "partial", "done"]


class _Shallow(msgspec.Struct):
    """Enough of a result file to see how far it is."""

    plan: dict[str, object]


def new_directory(base: Path, kind: str) -> Path:
    """Make a directory of its own for a job.

    Raises:
        UsageError: it can't be made.
    """
    name = f"{kind}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    directory = base.absolute() / name
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"--results {base}: {error.strerror}", "choose another") from error
    return directory


def _call(command: Sequence[str], directory: Path | None = None) -> str:
    """Run a command of Slurm's; gives what it said on both streams.

    Raises:
        Unavailable: there is no such command.
        SlurmFailed: it refused.
    """
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=_SLURM_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise Unavailable(
            f"there is no {command[0]} here", "log in to a node that has Slurm's commands"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmFailed(
            f"{command[0]} gave no answer in {_SLURM_S:g} s", "see `scontrol ping`"
        ) from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise SlurmFailed(f"{command[0]}: {' '.join(line.strip() for line in lines)}")
    return done.stdout + done.stderr


def test_only(script: str, directory: Path) -> str:
    """What sbatch itself says of a script, without submitting it.

    Raises:
        Unavailable, SlurmFailed: see `_call`.
    """
    path = directory / f".shmbench-{os.getpid()}.sh"
    path.write_text(script)
    try:
        return _call(["sbatch", "--test-only", str(path)], directory).strip()
    finally:
        path.unlink()


def submit(script: str, kind: str, directory: Path, system: str | None) -> JobRecord:
    """Hand a script to sbatch, and keep it with what is known of the job in its directory.

    Raises:
        Unavailable, SlurmFailed: see `_call`; the directory is gone then.
    """
    (directory / SCRIPT).write_text(script)
    try:
        # From there, so that the log comes there, and no path stands in a directive.
        answer = _call(["sbatch", "--parsable", SCRIPT], directory)
    except ShmbenchError:
        (directory / SCRIPT).unlink()
        directory.rmdir()
        raise
    job_id = answer.split()[0].partition(";")[0]
    submitted = datetime.now().astimezone().isoformat(timespec="seconds")
    record = JobRecord(kind=kind, job_id=job_id, submitted=submitted, system=system)
    part = directory / f".{JOB_FILE}.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    part.replace(directory / JOB_FILE)
    return record


def record_of(directory: Path) -> JobRecord:
    """What is known of the job whose directory this is.

    Raises:
        UsageError: it is none.
    """
    try:
        return msgspec.json.decode((directory / JOB_FILE).read_bytes(), type=JobRecord)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"{directory} is not the directory of a submitted job: it has no {JOB_FILE}",
            "name one that `shmbench slurm submit` made",
        ) from error


def tasks(job_id: str) -> list[Task]:
    """The job's tasks as Slurm knows them; none when it has forgotten the job."""
    form = "%i|%T|%M|%l|%r"
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        f"--jobs={job_id}",
        f"--format={form}",
    ]
    try:
        answer = _call(command)
    except SlurmFailed as error:
        if "Invalid job id" in error.message:
            return []
        raise
    rows = (line.strip().split("|") for line in answer.splitlines())
    return [Task(*row) for row in rows if len(row) == form.count("|") + 1]


def parts(directory: Path) -> list[Part]:
    """How far each file is that the job is to write; none before it has begun."""
    return [Part(name, _state(directory / f"{name}.json")) for name in expected(directory)]


def expected(directory: Path) -> list[str]:
    """The names of the files that a job is to write, as the job itself has put them down."""
    try:
        return (directory / EXPECTED).read_text().split()
    except OSError:
        return []


def _state(path: Path) -> Literal["waiting", "partial", "done"]:
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=_Shallow).plan
    except (OSError, msgspec.MsgspecError):
        return "waiting"
    return "partial" if plan.get("interrupted") else "done"


def failed(directory: Path) -> bool:
    """Of a job that has ended: did it fail, or leave less than it should?"""
    record, found, written = record_of(directory), tasks_of(directory), parts(directory)
    lacks = not written or any(part.state != "done" for part in written)
    return any(task.state in _BAD for task in found) or (lacks and record.kind != "nightly")


def tasks_of(directory: Path) -> list[Task]:
    """The tasks of the job whose directory this is."""
    return tasks(record_of(directory).job_id)


def follow(directory: Path, show: Callable[[float, str], None]) -> str:
    """Wait for the end of a job; gives how it ended.

    Args:
        show: is told the share of the results that is there, and how it stands.

    Raises:
        SlurmFailed: Slurm gave no answer for a minute.
    """
    silent = 0
    while True:
        try:
            found = tasks_of(directory)
            silent = 0
        except SlurmFailed:
            silent += 1
            if silent * _POLL_S > _SILENT_S:
                raise
            time.sleep(_POLL_S)
            continue
        written = parts(directory)
        told = f"{_states(found)}; results: {_counts(written)}"
        show(sum(part.state == "done" for part in written) / max(1, len(written)), told)
        if all(task.ended for task in found):
            return told
        time.sleep(_POLL_S)


def _states(found: Sequence[Task]) -> str:
    """The states of all tasks: "COMPLETED", "2 RUNNING, 1 PENDING"."""
    if not found:
        return "ended, and forgotten by Slurm"
    counts = Counter(task.state for task in found)
    if len(found) == 1:
        only = found[0]
        return f"PENDING ({only.reason})" if only.state == "PENDING" else only.state
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _counts(written: Sequence[Part]) -> str:
    """How many files are there: "2 done, 1 partial (n3)"."""
    if not written:
        return "none yet"
    texts = []
    for state in ("done", "partial", "waiting"):
        names = [part.name for part in written if part.state == state]
        shown = ", ".join(names[:_NAMES_SHOWN]) + (" ..." if len(names) > _NAMES_SHOWN else "")
        if names:
            texts.append(f"{len(names)} {state}" + (f" ({shown})" if state != "done" else ""))
    return ", ".join(texts)


def row(directory: Path) -> list[str]:
    """Directory, id, state, time, reason and results, as text."""
    record, found = record_of(directory), tasks_of(directory)
    longest = max(found, key=lambda task: (len(task.elapsed), task.elapsed), default=None)
    reasons = dict.fromkeys(task.reason for task in found if task.reason != "None")
    return [
        str(directory),
        record.job_id,
        _states(found),
        f"{longest.elapsed} of {longest.limit}" if longest else "",
        ", ".join(reasons),
        _counts(parts(directory)),
    ]
