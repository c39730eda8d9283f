"""Which MPI does mpi4py load here? `python -m shmbench.group.mpi_probe` answers as JSON.

It is run in a child process: a library that can't be loaded, or that ends the process, harms nobody
then. MPI isn't initialised. With the argument `size` it is a rank of a job instead, and says how
many ranks that has.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec


def _library_path() -> str | None:
    """The MPI library that this process has mapped."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        name = path.rpartition("/")[2]
        if path.startswith("/") and name.startswith(("libmpi.so", "libmpich.so", "libmpi_")):
            return str(Path(path).resolve())
    return None


def _provider(path: str | None) -> str:
    """Who installed the library: pip, the distribution, or the site."""
    if path is None:
        return "unknown"
    if path.startswith(str(Path(sys.prefix).resolve())):
        return "wheel"
    return "distribution" if path.startswith(("/usr/lib", "/lib")) else "site"


def describe() -> dict[str, Any]:
    """vendor, version, library (its path), provider, and what the library says of itself."""
    from mpi4py import MPI

    name, version = MPI.get_vendor()
    path = _library_path()
    lines = MPI.Get_library_version().strip("\0").splitlines()
    device = [line.partition(":")[2].strip() for line in lines if line.startswith("MPICH Device")]
    return {
        "vendor": name,
        "version": ".".join(map(str, version)),
        "library": path,
        "provider": _provider(path),
        "library_version": lines[0].strip() if lines else "",
        "device": device[0] if device else None,
    }


def main() -> None:
    """Print the description, or the size of the job."""
    import mpi4py

    if sys.argv[1:] == ["size"]:
        from mpi4py import MPI

        sys.stdout.write(f"{MPI.COMM_WORLD.size}\n")
        return
    mpi4py.rc.initialize = False
    sys.stdout.write(msgspec.json.encode(describe()).decode())


if __name__ == "__main__":
    main()
