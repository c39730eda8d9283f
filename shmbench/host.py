"""The name under which this node stands in results."""

from __future__ import annotations

import os
import platform


def host_name() -> str:
    """Slurm's name of this node in a task of Slurm's, else the host's own name.

    An administrator drains a node by Slurm's name; and simulated nodes share their host's.
    """
    return os.environ.get("SLURMD_NODENAME") or platform.node()
