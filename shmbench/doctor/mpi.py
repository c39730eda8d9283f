"""The MPI that mpi4py loads here, and the launcher that belongs to it."""

from __future__ import annotations

from shmbench.doctor.check import Check, missing, ok
from shmbench.errors import Unavailable
from shmbench.launch import Launcher, find_launcher, sizes_of_a_job

_RANKS = 2


def mpi_checks() -> list[Check]:
    """Which MPI, whose, and where; or why there is none."""
    try:
        found = find_launcher()
    except Unavailable as why:
        return [
            missing(
                "MPI", why.message, "no cases with --launcher mpi", why.remedy or "none is known"
            )
        ]
    mpi = found.mpi
    device = f", {mpi['device']}" if mpi["device"] else ""
    library = f"{mpi['vendor']} {mpi['version']}{device} ({mpi['provider']}): {mpi['library']}"
    return [
        ok("MPI", library),
        ok("MPI library", mpi["library_version"]),
        ok("mpiexec", " ".join((found.mpiexec, *found.arguments))),
        _job_check(found),
    ]


def _job_check(launcher: Launcher) -> Check:
    """Do two ranks that are started find each other?"""
    cost = "no cases with --launcher mpi"
    try:
        sizes = sizes_of_a_job(launcher, _RANKS)
    except Unavailable as why:
        return missing("MPI job", why.message, cost, why.remedy or "none is known")
    if sizes == [_RANKS] * _RANKS:
        return ok("MPI job", f"{_RANKS} ranks were started, and found each other")
    return missing(
        "MPI job",
        f"{_RANKS} ranks were started; the sizes of their jobs are {sizes}",
        cost,
        "mpiexec and library don't belong together: name the library of mpiexec in MPI4PY_LIBMPI",
    )
