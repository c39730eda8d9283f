"""Starting an MPI job: which library mpi4py loads, and the mpiexec that belongs to it.

An mpiexec of another MPI starts N processes that each believe to be alone, so the one beside the
library is taken, and asked what it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from shmbench.errors import Unavailable

_PROBE_S = 30.0
_INSTALL = 'install one with: pip install "shmbench[mpi]"'

# What `mpiexec --version` says, and what the launcher may be called, by MPI.get_vendor()'s name.
_SIGNS = {
    "MPICH": ("HYDRA", "MPICH"),
    "Intel MPI": ("Intel",),
    "Open MPI": ("Open MPI", "OpenRTE", "PRRTE"),
    "MVAPICH": ("HYDRA", "MVAPICH"),
}
_NAMES = {
    "Open MPI": ("mpiexec.openmpi", "mpiexec", "mpirun"),
    "MPICH": ("mpiexec.mpich", "mpiexec.hydra", "mpiexec", "mpirun"),
}
_PLAIN_NAMES = ("mpiexec.hydra", "mpiexec", "mpirun")

# How the names of the variables begin that schedulers and launchers give to a job's processes.
_SCHEDULERS = ("SLURM_", "PBS_", "LSB_")
_LAUNCHERS = ("PMI_", "PMIX_", "PRTE_", "OMPI_COMM_", "OMPI_UNIVERSE_", "HYDI_", "MPI_LOCAL")
# How many ranks a launcher says that it started.
_SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")


class Launcher(msgspec.Struct, frozen=True):
    """The MPI that is loaded here, and how to start its jobs.

    Attributes:
        mpi: vendor, version, library, provider and so on, as `group.mpi_probe` describes it.
        mpiexec: its path.
        arguments: what it needs beside -n.
        environment: what has to be set for it.
    """

    mpi: dict[str, Any]
    mpiexec: str
    arguments: tuple[str, ...]
    environment: dict[str, str]

    def command(self, ranks: int, program: Sequence[str]) -> list[str]:
        """What starts `ranks` ranks of a Python program: arguments of `python -m mpi4py`."""
        own = [sys.executable, "-m", "mpi4py", *program]
        return [self.mpiexec, *self.arguments, "-n", str(ranks), *own]


def sizes_of_a_job(launcher: Launcher, ranks: int) -> list[int]:
    """Start a job, and ask each rank how many ranks it has.

    Raises:
        Unavailable: it doesn't start, or doesn't come to an end.
    """
    command = launcher.command(ranks, ["-m", "shmbench.group.mpi_probe", "size"])
    remedy = f"see what this says: {' '.join(command)}"
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**launcher.environment, **outside_of_jobs(os.environ)},
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"{launcher.mpiexec}: {error}", remedy) from error
    try:
        said, complaint = process.communicate(timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        said, complaint = "", f"no end within {_PROBE_S:.0f} s"
    try:
        sizes = [int(line) for line in said.split()]
    except ValueError:
        sizes, complaint = [], said
    if process.returncode or not sizes:
        last = (complaint.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise Unavailable(f"a job of {ranks} ranks by {launcher.mpiexec} fails: {last}", remedy)
    return sizes


def outside_of_jobs(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what a scheduler or launcher told this process, for a child that is no part of a job.

    A launcher that finds itself in a job of Slurm's starts its ranks by srun, where they wait for
    CPUs that the job has already.
    """
    told = _SCHEDULERS + _LAUNCHERS
    return {name: value for name, value in environment.items() if not name.startswith(told)}


def started_ranks(environment: Mapping[str, str] = os.environ) -> int | None:
    """How many ranks the launcher of this process says it started; None without a launcher."""
    for name in _SIZE_VARIABLES:
        with suppress(KeyError, ValueError):
            return int(environment[name])
    return None


def probe() -> dict[str, Any]:
    """Which MPI mpi4py loads, found out in a child process.

    Raises:
        Unavailable: there is no mpi4py, or no library that it can load.
    """
    child = subprocess.run(
        [sys.executable, "-m", "shmbench.group.mpi_probe"],
        capture_output=True,
        text=True,
        timeout=_PROBE_S,
        check=False,
    )
    if child.returncode == 0:
        found: dict[str, Any] = msgspec.json.decode(child.stdout)
        return found
    last = (child.stderr.strip().splitlines() or ["no message"])[-1]
    raise Unavailable(f"MPI: no library can be loaded here: {last}", _INSTALL)


def find_launcher() -> Launcher:
    """The mpiexec that belongs to the library that mpi4py loads.

    Raises:
        Unavailable: no library, or no mpiexec of it.
    """
    mpi = probe()
    vendor = mpi["vendor"]
    for path in _candidates(vendor, mpi["library"]):
        if any(sign in _version(path) for sign in _SIGNS.get(vendor, ("",))):
            return Launcher(mpi, str(path), *_needs(vendor, mpi["provider"]))
    raise Unavailable(
        f"MPI: no mpiexec of {vendor} {mpi['version']} was found near {mpi['library']}",
        "install its launcher, or name the library of another MPI in MPI4PY_LIBMPI",
    )


def _candidates(vendor: str, library: str | None) -> list[Path]:
    """Where its mpiexec may be: in a bin beside the library or above it, then on the PATH."""
    above = list(Path(library).parents)[:5] if library else []
    directories = [each / "bin" for each in above]
    directories += [Path(each) for each in os.get_exec_path()]
    names = _NAMES.get(vendor, _PLAIN_NAMES)
    found = (directory / name for directory in directories for name in names)
    return [path for path in dict.fromkeys(found) if os.access(path, os.X_OK)]


def _version(mpiexec: Path) -> str:
    try:
        shown = subprocess.run(
            [str(mpiexec), "--version"],
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return shown.stdout + shown.stderr


def _needs(vendor: str, provider: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Arguments and environment: we bind ranks ourselves, and there may be more than CPUs."""
    if vendor != "Open MPI":
        return (), {}
    environment: dict[str, str] = {}
    if os.getuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if provider == "wheel":  # its network transports take a second to find nothing
        environment |= {"OMPI_MCA_btl": "^ofi", "OMPI_MCA_mtl": "^ofi", "OMPI_MCA_osc": "^ucx"}
    return ("--oversubscribe", "--bind-to", "none"), environment


def start(launcher: Launcher, ranks: int, program: Sequence[str], output: int | None = None) -> int:
    """Run a job to its end, in a session of its own; gives the exit code: 0, 1 or 2.

    Whatever ends the caller ends the job: Ctrl-C and SIGTERM are passed on, then comes SIGKILL.

    Args:
        output: where its standard output goes, as `subprocess` has it; None: to the caller's.
    """
    process = subprocess.Popen(
        launcher.command(ranks, program),
        env={**launcher.environment, **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=output,
        start_new_session=True,
    )
    try:
        status = process.wait()
    finally:
        if process.poll() is None:
            _end(process)
    return status if status in (0, 2) else 1  # a launcher has others for what ends ranks


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
