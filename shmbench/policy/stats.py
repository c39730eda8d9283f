"""What a mapping did."""

from __future__ import annotations

from dataclasses import dataclass, field

from shmbench.native.prefetch import Counters
from shmbench.native.watched import Watched
from shmbench.policy.hints import Refusal


@dataclass(frozen=True)
class MappingStats:
    """What a mapping did so far.

    Attributes:
        accesses: through `read` and `blocks`.
        misses: those that found pages missing from the page cache.
        accesses_seen: by the law of the window.
        accesses_of_streams: those that it found to belong to a stream.
        windows: that it asked for.
        pages_asked: in those windows; fewer are fetched where the kernel by itself is as good.
        pages_unused: asked for by streams that ended before they came there.
        bytes_asked: by kind: "willneed", "populate" and "pageout" by the helper thread; "read" is
            what `read`, `blocks` and `populate` had to bring in themselves.
        read_ahead: whether the kernel's read-ahead is on.
        helper: what the helper thread did.
        refusals: hints that the kernel refused and that were to be recorded.
        watch: what the transparent watcher has seen and done; None without one.
    """

    accesses: int
    misses: int
    accesses_seen: int
    accesses_of_streams: int
    windows: int
    pages_asked: int
    pages_unused: int
    bytes_asked: dict[str, int]
    read_ahead: bool
    helper: Counters
    refusals: list[Refusal] = field(default_factory=list)
    watch: Watched | None = None
