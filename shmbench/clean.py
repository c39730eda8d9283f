"""What a killed run left behind: found by its name, and only taken when its maker is dead."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from shmbench.measure.cgroup import find_hierarchy
from shmbench.regions.file import default_directories
from shmbench.regions.names import stale_names

_SYSTEM_DIRECTORIES = ("/dev/shm", "/dev/mqueue")

# What MPI libraries leave when their ranks are killed: MPICH, Intel MPI, Open MPI, UCX, libfabric.
_MPI_NAME = re.compile(
    r"mpich_shm_.*|mpich_shar_tmp.*|Intel_MPI_.*|shm_mpi_.*"
    r"|sm_segment\..*|vader_segment\..*|osc_rdma\..*|ucx_shm_posix_.*|fi_shm_.*"
)
_MPI_AGE_S = 60.0  # a rank that is starting has made its segment, and not mapped it yet


def leftovers(directories: Iterable[str] = ()) -> list[Path]:
    """Shared memory, semaphores, queues, files and cgroups of this user's dead processes.

    Args:
        directories: where `run --dir` kept its files, beside the default ones.
    """
    cgroups = find_hierarchy()
    places = dict.fromkeys([*_SYSTEM_DIRECTORIES, *default_directories(), *directories])
    if cgroups is not None:
        places[str(cgroups.root)] = None
    found = [path for place in places for path in stale_names(Path(place))]
    return found + mpi_leftovers()


def mpi_leftovers(
    directory: Path = Path("/dev/shm"), least_age_s: float = _MPI_AGE_S
) -> list[Path]:
    """Segments of MPI libraries that are this user's, and that no process has mapped or open.

    Their names don't tell who made them, so what is younger than `least_age_s` is left alone.
    """
    found = []
    with suppress(OSError):
        for path in sorted(directory.iterdir()):
            if not _MPI_NAME.fullmatch(path.name):
                continue
            with suppress(FileNotFoundError):
                status = path.lstat()
                if status.st_uid == os.getuid() and time.time() - status.st_ctime >= least_age_s:
                    found.append(path)
    used = _in_use(directory) if found else set()
    return [path for path in found if path not in used]


def _in_use(directory: Path) -> set[Path]:
    """What of a directory this user's processes have mapped or open."""
    used: set[Path] = set()
    prefix = f"{directory}/"
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or is not ours to look at
            for line in (process / "maps").read_text().splitlines():
                name = line.split(maxsplit=5)[-1]
                if name.startswith(prefix):
                    used.add(Path(name))
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    name = str(descriptor.readlink())
                    if name.startswith(prefix):
                        used.add(Path(name))
    return used


def remove(paths: Iterable[Path]) -> list[Path]:
    """Remove leftovers; gives those that are gone now.

    Raises:
        OSError: one can't be removed; those before it are gone.
    """
    removed = []
    for path in paths:
        if path.is_dir():  # a cgroup
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        removed.append(path)
    return removed
