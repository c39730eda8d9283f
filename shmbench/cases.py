"""A case: one figure to obtain. The product of the axes that a result is labelled with."""

from __future__ import annotations

from typing import Literal

import msgspec

from shmbench.channels import Driver
from shmbench.regions import Pages

Launcher = Literal["process", "mpi"]
Cache = Literal["cold", "warm"]


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
        directory: where the region's file lives.
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
            parts.append(self.region if self.pages == "prefault" else f"{self.region}:{self.pages}")
        if self.numa not in (None, "local"):
            parts.append(f"numa {self.numa}")
        if self.first_touch:
            parts.append(f"rank {self.first_touch} first")
        if self.directory:
            parts.append(self.directory)
        if self.message_bytes is not None:
            parts.append(f"{self.message_bytes} B")
        parts.append(f"{self.ranks} ranks")
        parts.append(self.placement)
        return " ".join(parts)
