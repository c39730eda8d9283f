"""Ranks of an MPI job; a sample is the median of one fresh job. Each MPI is an environment."""

from __future__ import annotations

from typing import Any

from .common import Tracked, tracked

_ROUNDS = 8  # a job takes a second to start


class MpiWindow(Tracked):
    params = ([8],)
    param_names = ("message_bytes",)
    over_mpi = True

    def axes(self, message_bytes: int) -> dict[str, Any]:
        return {
            "workload": "ping_pong",
            "channels": ("spin",),
            "driver": "native",
            "regions": ("mpi_window",),
            "sizes": (message_bytes,),
            "launcher": "mpi",
        }

    @tracked("ping-pong over a spinning ring in an MPI shared window, per one-way message", _ROUNDS)
    def track_time(self, message_bytes: int) -> Any:
        return self.measure()


class MpiMessages(Tracked):
    params = ([8],)
    param_names = ("message_bytes",)
    over_mpi = True

    def axes(self, message_bytes: int) -> dict[str, Any]:
        return {
            "workload": "ping_pong",
            "channels": ("mpi_p2p",),
            "driver": "python",
            "sizes": (message_bytes,),
            "launcher": "mpi",
        }

    @tracked("ping-pong by MPI messages from Python, per one-way message", _ROUNDS)
    def track_time(self, message_bytes: int) -> Any:
        return self.measure()
