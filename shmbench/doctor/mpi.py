"""The MPI that mpi4py loads here, and the launcher that belongs to it."""

from __future__ import annotations

from shmbench.doctor.check import Check, missing, ok
from shmbench.errors import Unavailable
from shmbench.launch import find_launcher


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
    return [ok("MPI", library), ok("mpiexec", found.mpiexec)]
