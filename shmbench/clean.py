"""What a killed run left behind: found by its name, and only taken when its maker is dead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shmbench.regions.file import default_directories
from shmbench.regions.names import stale_names

_SYSTEM_DIRECTORIES = ("/dev/shm", "/dev/mqueue")


def leftovers(directories: Iterable[str] = ()) -> list[Path]:
    """Shared memory, semaphores, queues and files of this user whose process no longer lives.

    Args:
        directories: where `run --dir` kept its files, beside the default ones.
    """
    places = dict.fromkeys([*_SYSTEM_DIRECTORIES, *default_directories(), *directories])
    return [path for place in places for path in stale_names(Path(place))]


def remove(paths: Iterable[Path]) -> list[Path]:
    """Remove leftovers; gives those that are gone now.

    Raises:
        OSError: one can't be removed; those before it are gone.
    """
    removed = []
    for path in paths:
        path.unlink(missing_ok=True)
        removed.append(path)
    return removed
