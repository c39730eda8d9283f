"""What the hardware can do: when these move, the machine has changed, not the program."""

from __future__ import annotations

from typing import Any

from .common import Tracked, tracked


class HandOver(Tracked):
    def axes(self) -> dict[str, Any]:
        return {"workload": "core_to_core"}

    @tracked("hand-over of a cache line between two CPUs, one way")
    def track_time(self) -> Any:
        return self.measure()


class Memcpy(Tracked):
    params = ([1 << 20],)
    param_names = ("message_bytes",)

    def axes(self, message_bytes: int) -> dict[str, Any]:
        return {"workload": "memcpy", "variant": "two_copies", "sizes": (message_bytes,)}

    @tracked("two CPUs copying through shared slots with no protocol, per message")
    def track_time(self, message_bytes: int) -> Any:
        return self.measure()
