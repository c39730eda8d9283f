"""A case: one figure to obtain. The product of the axes that a result is labelled with."""

from __future__ import annotations

from typing import Literal

import msgspec

from shmbench.channels import Driver
from shmbench.regions import Pages
from shmbench.units import format_bytes

Launcher = Literal["process", "mpi"]
Cache = Literal["cold", "warm"]
CACHES: tuple[Cache, ...] = ("cold", "warm")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured, on what, how. A key that does not apply is None.

    Attributes:
        workload: name in `shmbench.workloads.WORKLOADS`.
        variant: which of the workload's variants; None where it has none.
        channel: kind of the channel, without its driver.
        placement: "same_cpu", "smt", "l3", "node", "cross_node", or CPUs such as "0,1".
        first_touch: the rank that writes each page of the region first.
        numa: "local", "interleave" or "bind:N"; None where there is no region.
        window: messages between two acknowledgements, where the workload has a window.
        policy: name in `shmbench.workloads.policies.POLICIES`.
        cache: what the page cache holds of the file when a batch begins: nothing, or all of it.
        directory: where the region's file lives; of the workload trace: the file itself.
        file_bytes: of the file, or of the memory, that is mapped.
    """

    workload: str
    driver: Driver
    ranks: int
    placement: str
    variant: str | None = None
    channel: str | None = None
    region: str | None = None
    pages: Pages | None = None
    policy: str | None = None
    cache: Cache | None = None
    directory: str | None = None
    file_bytes: int | None = None
    launcher: Launcher = "process"
    message_bytes: int | None = None
    first_touch: int | None = None
    numa: str | None = None
    window: int | None = None

    def label(self) -> str:
        """The case in one line, as progress and errors show it."""
        parts = [self.workload]
        if self.variant:
            parts.append(self.variant)
        if self.channel:
            parts.append(f"{self.driver}/{self.channel}")
        if self.region:
            plain = self.pages in (None, "prefault")
            parts.append(self.region if plain else f"{self.region}:{self.pages}")
        if self.numa not in (None, "local"):
            parts.append(f"numa {self.numa}")
        if self.first_touch:
            parts.append(f"rank {self.first_touch} first")
        if self.directory:
            parts.append(self.directory)
        if self.file_bytes is not None:
            parts.append(format_bytes(self.file_bytes))
        parts += [part for part in (self.cache, self.policy) if part]
        if self.message_bytes is not None:
            parts.append(f"{self.message_bytes} B")
        parts.append("1 rank" if self.ranks == 1 else f"{self.ranks} ranks")
        parts.append(self.placement)
        if self.launcher == "mpi":
            parts.append("by MPI")
        return " ".join(parts)
