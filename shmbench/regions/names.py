"""Names of what a region or channel puts into the system: whose, and made by which process."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

# glibc keeps a named semaphore NAME as the file sem.NAME
_NAME = re.compile(r"(?:sem\.)?shmbench-(\d+)-(\d+)-[0-9a-f]{16}")


def fresh_name(pid: int | None = None) -> str:
    """A name that nothing else has: shmbench-UID-PID-RANDOM, without a slash.

    Args:
        pid: of the process that answers for it; None: this one.
    """
    return f"shmbench-{os.getuid()}-{pid or os.getpid()}-{secrets.token_hex(8)}"


def parse_name(name: str) -> tuple[int, int] | None:
    """The (uid, pid) in one of our names; None for a name that isn't ours."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def is_stale(name: str) -> bool:
    """Is it this user's, and does the process that made it no longer live?

    A pid that the kernel has given to another process counts as alive: better to keep a leftover
    than to take somebody's memory away.
    """
    owner = parse_name(name)
    if owner is None or owner[0] != os.getuid():
        return False
    try:
        os.kill(owner[1], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def stale_names(directory: Path) -> list[Path]:
    """What killed processes of this user left in a directory, sorted; [] if it can't be read."""
    try:
        return sorted(path for path in directory.iterdir() if is_stale(path.name))
    except OSError:
        return []
