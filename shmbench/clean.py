"""What a killed run left behind: found by its name, and only taken when its maker is dead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shmbench.measure.cgroup import find_hierarchy
from shmbench.regions.file import default_directories
from shmbench.regions.names import stale_names

_SYSTEM_DIRECTORIES = ("/dev/shm", "/dev/mqueue")


def leftovers(directories: Iterable[str] = ()) -> list[Path]:
    """Shared memory, semaphores, queues, files and cgroups of this user's dead processes.

    Args:
        directories: where `run --dir` kept its files, beside the default ones.
    """
    cgroups = find_hierarchy()
    places = dict.fromkeys([*_SYSTEM_DIRECTORIES, *default_directories(), *directories])
    if cgroups is not None:
        places[str(cgroups.root)] = None
    return [path for place in places for path in stale_names(Path(place))]


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
