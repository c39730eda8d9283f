"""Memory: page sizes, /dev/shm, swap, and the limits that a process has."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shmbench.doctor.check import Check, info, missing, ok, warn
from shmbench.machine import show
from shmbench.machine.readers import meminfo_bytes
from shmbench.measure.sysfs import read_int, read_text
from shmbench.units import format_bytes

# The largest message is 64 MiB, and rings hold several; Docker's default /dev/shm is 64 MiB in all.
SHM_FREE_BYTES_MIN = 256 * 2**20
DESCRIPTORS_MIN = 1024
# The kernel's default; a queue of 10 messages of 8 KiB takes about a tenth of it (mq_overview(7)).
QUEUE_BYTES_MIN = 819200
QUEUE_DEFAULTS = {"msg_max": 10, "msgsize_max": 8192, "queues_max": 256}

_THP = "/sys/kernel/mm/transparent_hugepage"


def memory_checks(facts: Mapping[str, Any], root: Path) -> list[Check]:
    """All checks of this file, from the facts of `shmbench.machine` and the files below root."""
    return [
        memory(facts),
        swap(facts, root),
        proactive_reclaim(root),
        thp(facts),
        thp_shmem(facts),
        huge_pages(facts),
        dev_shm(facts),
        locked_memory(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]),
        descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        queue_bytes(resource.getrlimit(resource.RLIMIT_MSGQUEUE)[0]),
        queues(root),
    ]


def memory(facts: Mapping[str, Any]) -> Check:
    total, limit = facts["memory_bytes"], facts["cgroup_memory_bytes"]
    found = show("memory_bytes", total)
    if limit is not None and (total is None or limit < total):
        found += f"; the cgroup may use {format_bytes(limit)} (/dev/shm counts)"
    return info("memory", found)


def swap(facts: Mapping[str, Any], root: Path) -> Check:
    total = facts["swap_bytes"]
    if not total:
        return ok("swap", "none" if total == 0 else "unknown")
    try:
        used = total - meminfo_bytes(root, "SwapFree")
    except (OSError, KeyError):
        used = 0
    return warn(
        "swap",
        f"{format_bytes(total)}, {format_bytes(used)} in use",
        "pages of a region may be written out in the middle of a case: major faults",
        "for the run: swapoff -a",
    )


def proactive_reclaim(root: Path) -> Check:
    """Does DAMON page out what is idle, however much memory is free?"""
    damon = root / "sys/kernel/mm/damon/admin/kdamonds"
    for daemon in sorted(damon.glob("[0-9]*")):
        if read_text(daemon / "state") != "on":
            continue
        for scheme in sorted(daemon.glob("contexts/*/schemes/*")):
            if read_text(scheme / "action") == "pageout":
                context = scheme.parent.parent
                rounds = read_int(scheme / "access_pattern/age/min") or 0
                round_us = read_int(context / "monitoring_attrs/intervals/aggr_us") or 0
                idle_s = rounds * round_us / 1e6
                off = f"echo off > /{(daemon / 'state').relative_to(root)}"
                return _reclaims(f"DAMON pages out what is idle for {idle_s:.0f} s", off)
    module = root / "sys/module/damon_reclaim/parameters"
    if read_text(module / "enabled") == "Y":
        idle_s = (read_int(module / "min_age") or 0) / 1e6
        off = f"echo N > /{(module / 'enabled').relative_to(root)}"
        return _reclaims(f"DAMON_RECLAIM pages out what is idle for {idle_s:.0f} s", off)
    return ok("proactive reclaim", "none")


def _reclaims(found: str, off: str) -> Check:
    cost = "warm files go cold, a few pages at a time, also where memory is free"
    return warn("proactive reclaim", found, cost, f"for the run: {off}")


def thp(facts: Mapping[str, Any]) -> Check:
    chosen = facts["thp_enabled"]
    if chosen in ("always", "madvise"):
        return ok("thp", f"enabled: {chosen}, defrag: {show('thp_defrag', facts['thp_defrag'])}")
    return missing(
        "thp",
        f"enabled: {show('thp_enabled', chosen)}",
        "private memory has small pages only: up to 512 times the faults and TLB misses",
        f"echo madvise > {_THP}/enabled" if chosen else "a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
    )


def thp_shmem(facts: Mapping[str, Any]) -> Check:
    chosen = facts["thp_shmem_enabled"]
    if chosen in ("always", "within_size", "advise", "force"):
        return ok("thp for shared memory", f"shmem_enabled: {chosen}")
    return missing(
        "thp for shared memory",
        f"shmem_enabled: {show('thp_shmem_enabled', chosen)}",
        "shared memory gets huge pages by MADV_COLLAPSE only (Linux 6.1), not on first touch",
        f"echo advise > {_THP}/shmem_enabled"
        if chosen
        else "a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
    )


def huge_pages(facts: Mapping[str, Any]) -> Check:
    pools = facts["huge_pages"] or {}
    if any(pools.values()):
        return ok("huge pages", f"reserved: {show('huge_pages', pools)}")
    return missing(
        "huge pages",
        f"none reserved ({', '.join(pools)})" if pools else "the kernel has no hugetlb pages",
        "no hugetlb regions",
        "sysctl vm.nr_hugepages=64" if pools else "a kernel with CONFIG_HUGETLBFS",
    )


def dev_shm(facts: Mapping[str, Any]) -> Check:
    size, free = facts["shm_bytes"], facts["shm_free_bytes"]
    if size is None or free is None:
        return missing(
            "/dev/shm",
            "not there",
            "no posix_shm and mp_shm regions, no POSIX semaphores",
            "mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
        )
    found = f"{format_bytes(size)}, {format_bytes(free)} free"
    if free >= SHM_FREE_BYTES_MIN:
        return ok("/dev/shm", found)
    return warn(
        "/dev/shm",
        found,
        "regions for large messages don't fit: those cases fail",
        "docker run --shm-size=2g, or: mount -o remount,size=2G /dev/shm; "
        "see `shmbench clean` for what killed runs left there",
    )


def locked_memory(limit: int) -> Check:
    return info("limit: locked memory", _limit(limit, format_bytes(limit)))


def descriptors(limit: int) -> Check:
    found = _limit(limit, str(limit))
    if limit == resource.RLIM_INFINITY or limit >= DESCRIPTORS_MIN:
        return ok("limit: open files", found)
    return warn(
        "limit: open files",
        found,
        "cases with many ranks run out of descriptors (two a pair of ranks) and fail",
        f"ulimit -n {DESCRIPTORS_MIN}",
    )


def queue_bytes(limit: int) -> Check:
    found = _limit(limit, format_bytes(limit))
    if limit == resource.RLIM_INFINITY or limit >= QUEUE_BYTES_MIN:
        return ok("limit: message queues", found)
    return warn(
        "limit: message queues",
        found,
        "posix_mq can't make its queues for larger messages or more ranks",
        f"ulimit -q {QUEUE_BYTES_MIN}",
    )


def _limit(limit: int, text: str) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else text


def queues(root: Path) -> Check:
    """The system's own limits on POSIX message queues, mq_overview(7)."""
    found = {key: read_int(root / "proc/sys/fs/mqueue" / key) for key in QUEUE_DEFAULTS}
    if None in found.values():
        return missing(
            "posix message queues",
            "not in this kernel",
            "no posix_mq channels",
            "a kernel with CONFIG_POSIX_MQUEUE",
        )
    text = ", ".join(f"{key} {value}" for key, value in found.items())
    low = [key for key, least in QUEUE_DEFAULTS.items() if (found[key] or 0) < least]
    if not low:
        return ok("posix message queues", text)
    return warn(
        "posix message queues",
        text,
        "posix_mq is refused, or holds fewer messages than it needs to keep both ranks at work",
        "sysctl " + " ".join(f"fs.mqueue.{key}={QUEUE_DEFAULTS[key]}" for key in low),
    )
