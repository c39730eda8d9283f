"""Which policy wins for one file and one order of accesses: measured, with its interval.

The user's file is opened for reading only. Each policy reads it in the same order, in fresh
processes, all in turn. Cold, where its pages can be taken out of the page cache, proven; warm
otherwise.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from shmbench.cases import Cache, Case
from shmbench.errors import ShmbenchError, UsageError
from shmbench.measure.eviction import evict
from shmbench.measure.placement import read_topology
from shmbench.measure.sampling import SamplingOptions
from shmbench.measure.statistics import bootstrap_ratio
from shmbench.measure.stopping import StoppingRule
from shmbench.results import Failure, Result
from shmbench.runner import Effort, Run
from shmbench.speedup import DEFAULT, speedup
from shmbench.worker import Worker
from shmbench.workloads import WORKLOADS
from shmbench.workloads.policies import POLICIES, READING, Policy

_KNOWN_ORDER = "guided"
_WHOLE_FILE = ("willneed", "populate", "populate_parallel")
_MEMORY_SHARE = 0.5


class Candidate(msgspec.Struct, kw_only=True):
    """One policy's figures.

    Attributes:
        seconds: of one access, the median; None where it failed.
        speedup: how many times faster than the kernel's default, which is the policy none.
        interval: 95 % of the speed-up; None where there are too few samples to tell.
        snippet: how a Python program gets it.
    """

    policy: str
    summary: str
    seconds: float | None
    speedup: float | None
    interval: tuple[float, float] | None
    snippet: str
    flags: list[str]
    error: Failure | None


class Tuning(msgspec.Struct, kw_only=True):
    """What `tune` found.

    Attributes:
        accesses: how many each pass makes, of access_bytes each.
        notes: what the figures must be read with.
        winner: the fastest policy, if it is faster than the kernel's default for sure; else none.
        as_fast: others that may be as fast, by the interval of their ratio.
        without_order: the winner among those that needn't know the order beforehand.
        candidates: all policies, the fastest first.
    """

    file: str
    file_bytes: int
    pattern: str
    cache: Cache
    accesses: int
    access_bytes: int
    notes: list[str]
    winner: str
    as_fast: list[str]
    without_order: str
    candidates: list[Candidate]

    def candidate(self, policy: str) -> Candidate:
        """The figures of one policy."""
        return next(each for each in self.candidates if each.policy == policy)


def tune(
    file: Path,
    pattern: str,
    *,
    access_bytes: int = 4096,
    cache: Cache | None = None,
    policies: tuple[str, ...] | None = None,
    budget_s: float = 60.0,
    explain: Callable[[float, str], None] = lambda share, label: None,
) -> Tuning:
    """Measure policies on a file, which is never written to.

    Args:
        file: a regular file.
        pattern: see `workloads.patterns.named`.
        access_bytes: of each access.
        cache: cold or warm; None: cold if the file can be evicted.
        policies: which; None: all that reading can have.
        budget_s: no round begins after it; each policy is measured once at least.
        explain: called before each trial with the share that is done, and its label.

    Raises:
        UsageError: no such file, pattern or policy, or nothing to read.
        ShmbenchError: the kernel's default couldn't be measured.
    """
    file = file.absolute()
    size = _size_of(file, access_bytes)
    cache, notes = _cache_of(file, size, cache)
    case = Case(
        workload="trace",
        variant=pattern,
        driver="python",
        ranks=1,
        placement="same_cpu",
        region="file",
        directory=str(file),
        file_bytes=size,
        cache=cache,
        message_bytes=access_bytes,
    )
    accesses = WORKLOADS.get("trace").operations(case)
    chosen = _policies(policies, case, notes)
    effort = Effort(
        budget_s=budget_s,
        rule=StoppingRule(min_groups=5, max_groups=12, target=0.03),
        sampling=SamplingOptions(batches=3, retries=3, group_s=0.3),
    )
    cases = [msgspec.structs.replace(case, policy=policy) for policy in chosen]
    run = Run(cases, read_topology(), effort, explain=explain)
    with Worker() as worker:
        run.measure(worker)
    results = {result.policy or DEFAULT: result for result in run.results()}
    base = results[DEFAULT]
    if base.median is None:
        assert base.error is not None
        raise ShmbenchError(f"tune: {base.error.message}", base.error.remedy)
    candidates = sorted(
        (_candidate(result, base) for result in results.values()),
        key=lambda each: each.seconds if each.seconds is not None else float("inf"),
    )
    winner = _winner(candidates)
    if all(each.interval is None for each in candidates):
        notes.append("the budget ended before there was an interval: give it more with --budget")
    return Tuning(
        file=str(file),
        file_bytes=size,
        pattern=pattern,
        cache=cache,
        accesses=accesses,
        access_bytes=access_bytes,
        notes=notes,
        winner=winner,
        as_fast=[name for name, result in results.items() if _as_fast(result, results[winner])],
        without_order=_winner([each for each in candidates if each.policy != _KNOWN_ORDER]),
        candidates=candidates,
    )


def _size_of(file: Path, access_bytes: int) -> int:
    remedy = "give a regular file that you may read"
    try:
        found = file.stat()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", remedy) from error
    if not stat.S_ISREG(found.st_mode) or not os.access(file, os.R_OK):
        raise UsageError(f"{file}: no regular file, or not readable", remedy)
    if found.st_size < access_bytes:
        raise UsageError(
            f"{file}: it has {found.st_size} bytes, an access has {access_bytes}",
            "give a larger file, or a smaller --size",
        )
    return found.st_size


def _cache_of(file: Path, size: int, wanted: Cache | None) -> tuple[Cache, list[str]]:
    """Cold, if the file can be evicted and nobody wants it warm; and what to say about it."""
    if wanted == "warm":
        return "warm", []
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = evict(fd, size)
    finally:
        os.close(fd)
    if found.proven or wanted == "cold":
        return "cold", []
    return "warm", [
        f"{found.after} of its {found.pages} pages stayed in memory when asked to go "
        f"({found.proof}), so the file is measured warm"
    ]


def _policies(wanted: tuple[str, ...] | None, case: Case, notes: list[str]) -> list[str]:
    for name in wanted or ():
        POLICIES.get(name)
    chosen = dict.fromkeys([DEFAULT, *(wanted or READING)])
    if wanted is None:
        if case.cache == "cold":
            del chosen["mapping_cache"]  # a file that is mapped can't be evicted
        if (case.file_bytes or 0) > psutil.virtual_memory().available * _MEMORY_SHARE:
            for name in _WHOLE_FILE:
                del chosen[name]
            notes.append(
                f"left out, because the file is large against memory: {', '.join(_WHOLE_FILE)}"
            )
    return list(chosen)


def _candidate(result: Result, base: Result) -> Candidate:
    policy: type[Policy] = POLICIES.get(result.policy or DEFAULT)
    found = speedup(base, result)
    return Candidate(
        policy=policy.name,
        summary=policy.summary,
        seconds=result.median,
        speedup=found.ratio if found else None,
        interval=found.interval if found else None,
        snippet=policy.snippet.format(
            path=result.directory, length=result.message_bytes, name=policy.name
        ),
        flags=result.flags,
        error=result.error,
    )


def _winner(candidates: list[Candidate]) -> str:
    """The first that is faster than the default for sure; the default where none is."""
    for each in candidates:
        if each.interval is not None and each.interval[0] > 1.0:
            return each.policy
    return DEFAULT


def _as_fast(result: Result, winner: Result) -> bool:
    if result is winner or result.median is None:
        return False
    low, high = bootstrap_ratio(winner.samples, result.samples)
    return low <= 1.0 <= high
