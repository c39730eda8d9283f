"""How far a mapping fetches ahead."""

from __future__ import annotations

from dataclasses import dataclass

from shmbench.native.memory import PAGE_BYTES
from shmbench.policy.window import Law


@dataclass(frozen=True)
class Ahead:
    """How far a mapping fetches ahead. The defaults were measured on a virtio disk and on tmpfs.

    Attributes:
        window_min_bytes: of a new stream's window.
        window_max_bytes: warm tmpfs with 560 ns of work a page: 4 MiB windows gained 1.4 to 1.7
            times, 256 KiB ones nothing; a stream has at most two windows ahead.
        steps_max: of a strided stream: with strides of 1 MiB, 86 us an access with none ahead, 34
            with 8, 25 with 512.
        budget_bytes: what a strided stream has ahead at most.
        streams: how many are followed at once.
        warm_after_bytes: of a warm file that are read in a row, before the hint "auto" tries
            whether mapping ahead pays; who reads less must not pay for a trial in vain.
    """

    window_min_bytes: int = 64 << 10
    window_max_bytes: int = 4 << 20
    steps_max: int = 512
    budget_bytes: int = 32 << 20
    streams: int = 16
    warm_after_bytes: int = 48 << 20

    def law(self, step_bytes: int | None) -> Law:
        """The law with these windows, and the stride that is known beforehand."""
        step = None if step_bytes is None else int(step_bytes / PAGE_BYTES) or None
        return Law(
            window_min=max(1, self.window_min_bytes // PAGE_BYTES),
            window_max=max(1, self.window_max_bytes // PAGE_BYTES),
            steps_min=min(8, self.steps_max),
            steps_max=self.steps_max,
            budget_pages=max(1, self.budget_bytes // PAGE_BYTES),
            streams=self.streams,
            step=step,
        )
