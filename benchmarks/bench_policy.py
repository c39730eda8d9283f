"""Mapping memory and files. All files are in memory, so no disk has a part in these figures."""

from __future__ import annotations

from typing import Any

from .common import Tracked, memory_directory, tracked


class FirstTouch(Tracked):
    params = (["none", "populate"],)
    param_names = ("policy",)

    def axes(self, policy: str) -> dict[str, Any]:
        return {
            "workload": "first_touch",
            "driver": "native",
            "regions": ("anonymous",),
            "policies": (policy,),
            "file_sizes": (16 << 20,),
        }

    @tracked("first write to 16 MiB of anonymous memory, per page")
    def track_time(self, policy: str) -> Any:
        return self.measure()


class Reopen(Tracked):
    params = (["none", "mapping_cache"],)
    param_names = ("policy",)

    def axes(self, policy: str) -> dict[str, Any]:
        return {
            "workload": "reopen",
            "variant": "first_bytes",
            "driver": "python",
            "policies": (policy,),
            "caches": ("warm",),
            "file_sizes": (1 << 20,),
            "directories": (memory_directory(),),
        }

    @tracked("open, map, use 8 bytes of and close a file of 1 MiB")
    def track_time(self, policy: str) -> Any:
        return self.measure()


class Scan(Tracked):
    params = (["none", "auto"],)
    param_names = ("policy",)

    def axes(self, policy: str) -> dict[str, Any]:
        return {
            "workload": "scan",
            "variant": "one_byte_a_page",
            "driver": "python",
            "policies": (policy,),
            "caches": ("warm",),
            "file_sizes": (16 << 20,),
            "directories": (memory_directory(),),
        }

    @tracked("one byte of each page of a newly mapped warm file of 16 MiB, per page")
    def track_time(self, policy: str) -> Any:
        return self.measure()
