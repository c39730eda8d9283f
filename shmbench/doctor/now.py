"""What goes on at the moment: who else uses the CPUs, and what the host takes away."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from shmbench.doctor.check import Check, ok, warn
from shmbench.measure.placement import Topology
from shmbench.measure.sysfs import read_text

# The kernel counts in ticks of 10 ms: in 0.3 s, one tick is 3 % of a CPU. These need two or more.
STEAL_SHARE_MAX = 0.05
BUSY_SHARE_MAX = 0.10
STRANGERS_SHOWN = 3


@dataclass(frozen=True)
class Ticks:
    """Clock ticks of one CPU since boot (proc_stat(5)): at work, taken by the host, and all."""

    busy: int
    steal: int
    total: int


@dataclass(frozen=True)
class Use:
    """A process: the CPU that it ran on last, and the CPU time that it has used since its start."""

    name: str
    cpu: int
    seconds: float


@dataclass(frozen=True)
class Stranger:
    """Another process, and the share of one CPU that it used."""

    pid: int
    name: str
    cpu: int
    share: float


def now_checks(topology: Topology, root: Path, sample_s: float) -> list[Check]:
    """Sample for sample_s seconds, sleeping, and tell what the others did."""
    allowed = {cpu.number for cpu in topology.cpus}
    ticks, use = read_ticks(root), read_use()
    start = time.monotonic()
    time.sleep(sample_s)
    elapsed_s = time.monotonic() - start
    shares = cpu_shares(ticks, read_ticks(root), allowed)
    found = [one for one in find_strangers(use, read_use(), elapsed_s) if one.cpu in allowed]
    return [steal(shares), load(shares), strangers(found)]


def read_ticks(root: Path) -> dict[int, Ticks]:
    """Ticks by CPU; none where /proc/stat can't be read."""
    ticks: dict[int, Ticks] = {}
    for line in (read_text(root / "proc/stat") or "").splitlines():
        name, *words = line.split()
        if name.startswith("cpu") and name != "cpu" and len(words) >= 8:
            # Guest time is in user time already.
            user, nice, system, idle, iowait, irq, softirq, stolen = map(int, words[:8])
            busy = user + nice + system + irq + softirq
            ticks[int(name[3:])] = Ticks(busy, stolen, busy + idle + iowait + stolen)
    return ticks


def cpu_shares(
    before: Mapping[int, Ticks], after: Mapping[int, Ticks], allowed: set[int]
) -> dict[int, tuple[float, float]]:
    """CPU -> the shares of its time, 0 to 1, that it was at work, and that the host took."""
    shares: dict[int, tuple[float, float]] = {}
    for cpu in sorted(allowed & before.keys() & after.keys()):
        total = max(after[cpu].total - before[cpu].total, 1)
        shares[cpu] = (
            (after[cpu].busy - before[cpu].busy) / total,
            (after[cpu].steal - before[cpu].steal) / total,
        )
    return shares


def read_use() -> dict[int, Use]:
    """What every process but this one has used so far, by pid."""
    use: dict[int, Use] = {}
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                times = process.cpu_times()
                one = Use(process.name(), process.cpu_num(), times.user + times.system)
        except psutil.Error:  # it ended meanwhile, or is not ours to look at
            continue
        if process.pid != os.getpid():
            use[process.pid] = one
    return use


def find_strangers(
    before: Mapping[int, Use], after: Mapping[int, Use], elapsed_s: float
) -> list[Stranger]:
    """Every process that was there all the time, with its share of a CPU in that time."""
    return [
        Stranger(pid, one.name, one.cpu, (one.seconds - before[pid].seconds) / elapsed_s)
        for pid, one in after.items()
        if pid in before
    ]


def _by_cpu(shares: Mapping[int, float]) -> str:
    return ", ".join(f"CPU {cpu} {share:.0%}" for cpu, share in shares.items()) or "unknown"


def steal(shares: Mapping[int, tuple[float, float]]) -> Check:
    stolen = {cpu: share for cpu, (_, share) in shares.items()}
    if max(stolen.values(), default=0.0) <= STEAL_SHARE_MAX:
        return ok("steal now", _by_cpu(stolen))
    return warn(
        "steal now",
        _by_cpu(stolen),
        "the host runs others on these CPUs: batches are flagged and left out, and the tail grows",
        "measure when the host is quiet, or on one with dedicated CPUs",
    )


def load(shares: Mapping[int, tuple[float, float]]) -> Check:
    busy = {cpu: share for cpu, (share, _) in shares.items()}
    if max(busy.values(), default=0.0) <= BUSY_SHARE_MAX:
        return ok("load now", _by_cpu(busy))
    return warn(
        "load now",
        _by_cpu(busy),
        "ranks are preempted: a wait of 1 us may take milliseconds, and batches are flagged",
        "stop what else runs, or measure on idle CPUs with --placement and a list of them",
    )


def strangers(found: list[Stranger]) -> Check:
    busy = sorted(
        (stranger for stranger in found if stranger.share > BUSY_SHARE_MAX),
        key=lambda stranger: -stranger.share,
    )
    if not busy:
        return ok("other processes", "none is busy on the allowed CPUs")
    text = ", ".join(
        f"{one.name} (pid {one.pid}) {one.share:.0%} on CPU {one.cpu}"
        for one in busy[:STRANGERS_SHOWN]
    )
    more = len(busy) - STRANGERS_SHOWN
    return warn(
        "other processes",
        f"{text} and {more} more" if more > 0 else text,
        "they compete with the ranks for CPUs, caches and memory bandwidth",
        "wait until they end, stop them, or move them away with taskset",
    )
