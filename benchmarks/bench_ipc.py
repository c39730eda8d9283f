"""Messages between two processes.

What spins has a CPU for each rank. What blocks has both ranks on one CPU: there a message costs a
change of context, while between two CPUs of a virtual machine it costs what waking a halted CPU
takes the host, which scatters by half and is not the program's.
"""

from __future__ import annotations

from typing import Any

from .common import Tracked, tracked


class RingLatency(Tracked):
    params = ([8, 4096],)
    param_names = ("message_bytes",)

    def axes(self, message_bytes: int) -> dict[str, Any]:
        return {
            "workload": "ping_pong",
            "channels": ("spin",),
            "driver": "native",
            "sizes": (message_bytes,),
        }

    @tracked("ping-pong over the spinning ring, per one-way message")
    def track_time(self, message_bytes: int) -> Any:
        return self.measure()


class RingRate(Tracked):
    params = ([8],)
    param_names = ("message_bytes",)

    def axes(self, message_bytes: int) -> dict[str, Any]:
        return {
            "workload": "stream",
            "channels": ("spin",),
            "driver": "native",
            "sizes": (message_bytes,),
        }

    @tracked("stream through the spinning ring, per message")
    def track_time(self, message_bytes: int) -> Any:
        return self.measure()


class Barrier(Tracked):
    def axes(self) -> dict[str, Any]:
        return {"workload": "barrier", "channels": ("spin",), "driver": "native"}

    @tracked("barrier of two ranks over spinning rings")
    def track_time(self) -> Any:
        return self.measure()


class CrossMemory(Tracked):
    params = ([1 << 20],)
    param_names = ("message_bytes",)

    def axes(self, message_bytes: int) -> dict[str, Any]:
        return {
            "workload": "stream",
            "channels": ("cma",),
            "driver": "native",
            "sizes": (message_bytes,),
        }

    @tracked("stream by process_vm_readv, per message")
    def track_time(self, message_bytes: int) -> Any:
        return self.measure()


class Blocking(Tracked):
    params = (["futex", "semaphore", "eventfd", "pipe", "unix_stream", "posix_mq"],)
    param_names = ("channel",)

    def axes(self, channel: str) -> dict[str, Any]:
        return {
            "workload": "ping_pong",
            "channels": (channel,),
            "driver": "native",
            "sizes": (8,),
            "placements": ("same_cpu",),
        }

    @tracked("8 B ping-pong of two ranks on one CPU, compiled loop, per one-way message")
    def track_time(self, channel: str) -> Any:
        return self.measure()


class Python(Tracked):
    params = (["semaphore", "posix_mq", "mp_pipe", "socket", "pipe"],)
    param_names = ("channel",)

    def axes(self, channel: str) -> dict[str, Any]:
        return {
            "workload": "ping_pong",
            "channels": (channel,),
            "driver": "python",
            "sizes": (8,),
            "placements": ("same_cpu",),
        }

    @tracked("8 B ping-pong of two ranks on one CPU, Python loop, per one-way message")
    def track_time(self, channel: str) -> Any:
        return self.measure()
