"""NUMA placement of a region: `spec.numa` to mbind(2)."""

from __future__ import annotations

from pathlib import Path

from shmbench.errors import Unavailable
from shmbench.native import memory

_NODES = Path("/sys/devices/system/node/online")


def online_nodes(listing: Path = _NODES) -> list[int]:
    """The NUMA nodes of this machine, from a kernel list such as "0-1,3"; [0] without NUMA."""
    try:
        text = listing.read_text().strip()
    except OSError:
        return [0]
    nodes: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        nodes.extend(range(int(first), int(last or first) + 1))
    return nodes


def policy(numa: str, nodes: list[int]) -> tuple[int, list[int]] | None:
    """What mbind is to be told.

    Args:
        numa: "local", "interleave" or "bind:N", as RegionSpec has checked.
        nodes: those that the machine has.

    Returns:
        (MPOL_* mode, nodes); None for "local", which needs no call.

    Raises:
        Unavailable: one node only, or node N isn't there.
    """
    if numa == "local":
        return None
    if len(nodes) == 1:
        raise Unavailable(
            f"NUMA placement {numa} means nothing here: this machine has one node only",
            "leave it at local",
        )
    if numa == "interleave":
        return memory.MPOL_INTERLEAVE, nodes
    node = int(numa.removeprefix("bind:"))
    if node not in nodes:
        raise Unavailable(
            f"NUMA node {node} isn't there", f"choose one of: {', '.join(map(str, nodes))}"
        )
    return memory.MPOL_BIND, [node]


def place(address: int, length: int, numa: str) -> None:
    """Tell the kernel where a mapping's pages are to come from; before anything allocates them.

    Raises:
        Unavailable: as `policy`.
        OSError: the kernel refuses.
    """
    chosen = policy(numa, online_nodes())
    if chosen is not None:
        memory.mbind(address, length, *chosen)
