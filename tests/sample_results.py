"""Plausible result files, made without measuring: every workload, both drivers, flags, failures."""

from __future__ import annotations

from typing import Any

import numpy as np

from shmbench.results import SCHEMA, Failure, Limit, Result, ResultFile

# Seconds for an empty message, seconds a byte, copies.
CHANNELS: dict[tuple[str, str], tuple[float, float, int]] = {
    ("native", "spin"): (55e-9, 1.1e-10, 2),
    ("native", "futex"): (6.2e-6, 1.2e-10, 2),
    ("native", "adaptive"): (70e-9, 1.1e-10, 2),
    ("native", "semaphore"): (7.1e-6, 1.2e-10, 2),
    ("native", "eventfd"): (8.3e-6, 1.2e-10, 2),
    ("native", "pipe"): (9.1e-6, 2.1e-10, 2),
    ("native", "unix_stream"): (9.9e-6, 1.9e-10, 2),
    ("native", "tcp"): (18e-6, 2.6e-10, 2),
    ("native", "cma"): (8.8e-6, 0.7e-10, 1),
    ("native", "null"): (2.1e-9, 0, 0),
    ("python", "flag"): (0.63e-6, 1.2e-10, 2),
    ("python", "semaphore"): (9.0e-6, 1.2e-10, 2),
    ("python", "mp_pipe"): (16e-6, 3.0e-10, 2),
    ("python", "mp_queue"): (41e-6, 3.4e-10, 2),
    ("python", "socket"): (12e-6, 2.2e-10, 2),
    ("python", "null"): (95e-9, 0, 0),
}
REGIONS = ("anonymous", "file", "posix_shm", "memfd", "mp_shm")
SIZES = (8, 256, 4096, 65536, 1 << 20)
CORE_TO_CORE_S = 52e-9
COPY_S_PER_BYTE = 0.025e-9


def sample_result(**changes: Any) -> Result:
    """One result of the native spin ring; keys to change by name."""
    keys: dict[str, Any] = {
        "workload": "ping_pong",
        "channel": "spin",
        "region": "anonymous",
        "pages": "prefault",
        "policy": None,
        "cache": None,
        "directory": None,
        "file_bytes": None,
        "driver": "native",
        "launcher": "process",
        "message_bytes": 8,
        "ranks": 2,
        "placement": "l3",
        "host": "node-a",
        "operation": "one-way message",
        "samples": [55e-9, 56e-9, 54e-9, 55.5e-9, 54.5e-9],
        "median": 55e-9,
        "ci": [54e-9, 56e-9],
        "first_touch": 0,
        "cpus": [0, 1],
    } | changes
    return Result(groups=len(keys["samples"]), **keys)


def sample_file(
    *,
    seed: int = 0,
    host: str = "node-a",
    created: str = "2026-03-01T09:30:00+00:00",
    groups: int = 5,
    noise: float = 0.02,
    cpus: int = 4,
) -> ResultFile:
    """A whole run.

    Args:
        seed: of the noise.
        groups: samples a case.
        noise: standard deviation of a sample's logarithm.
        cpus: how many the core-to-core matrix has.
    """
    noisy = _Noise(np.random.default_rng(seed), groups, noise, host)
    results = [
        *_latencies(noisy),
        *_streams(noisy),
        *_regions(noisy),
        *_placements(noisy),
        *_groups_of_ranks(noisy),
        *_core_to_core(noisy, cpus),
        *_failures(noisy),
    ]
    return ResultFile(
        schema=SCHEMA,
        machine=sample_machine(host, cpus),
        created=created,
        plan={
            "suite": "ipc",
            "options": {"sizes": [8, 4096]},
            "groups": [5, 20],
            "budget_s": 90.0,
            "elapsed_s": 88.2,
            "left_out": {"ping_pong 8 B cross_node": "there is one NUMA node"},
            "interrupted": False,
        },
        results=results,
    )


def sample_machine(host: str = "node-a", cpus: int = 4) -> dict[str, Any]:
    """Facts of a machine, as they stand in a result file."""
    return {
        "arch": "x86_64",
        "cpu_model": "AMD EPYC 9B14",
        "cpus_online": cpus,
        "cores": cpus // 2,
        "smt_active": True,
        "l2_bytes": 1 << 20,
        "l3_bytes": 32 << 20,
        "numa_nodes": 1,
        "memory_bytes": 24 << 30,
        "hypervisor": "kvm",
        "hostname": host,
        "kernel": "6.18.0",
        "mitigations": {"spectre_v1": "Mitigation: usercopy/swapgs barriers"},
        "clock_source": "tsc",
        "thp_enabled": "madvise",
        "thp_shmem_enabled": "never",
        "governor": None,
        "python": "3.12.4",
        "load_average": [0.3, 0.2, 0.1],
    }


class _Noise:
    """Makes results whose samples scatter around a true figure."""

    def __init__(self, rng: np.random.Generator, groups: int, noise: float, host: str) -> None:
        self.rng = rng
        self.groups = groups
        self.noise = noise
        self.host = host

    def result(self, seconds: float, *, percentiles: bool = False, **changes: Any) -> Result:
        samples = seconds * np.exp(self.rng.normal(0, self.noise, self.groups))
        median = float(np.median(samples))
        if changes.get("limit"):
            name, value = changes["limit"]
            changes["limit"] = Limit(name=name, value=value, ratio=median / value)
        if percentiles:
            tail = {"p50": 1.0, "p90": 1.2, "p99": 2.1, "p99.9": 9.0, "max": 180.0}
            changes["percentiles"] = {name: median * factor for name, factor in tail.items()}
        return sample_result(
            host=self.host,
            samples=[float(sample) for sample in samples],
            median=median,
            ci=[float(samples.min()), float(samples.max())],
            **changes,
        )

    def over(self, driver: str, channel: str, **changes: Any) -> Result:
        """Over a channel: only rings have a region."""
        ring = channel in {"spin", "futex", "adaptive", "semaphore", "eventfd", "flag"}
        if not ring:
            changes |= {"region": None, "pages": None, "first_touch": None}
        copies = CHANNELS[driver, channel][2]
        return self.result(driver=driver, channel=channel, copies=copies, **changes)


def _latencies(noisy: _Noise) -> list[Result]:
    return [
        noisy.over(
            driver,
            channel,
            seconds=start + size * per_byte,
            message_bytes=size,
            percentiles=True,
            limit=("core_to_core", CORE_TO_CORE_S),
            flags=["preempted"] if channel == "tcp" else [],
        )
        for (driver, channel), (start, per_byte, _) in CHANNELS.items()
        for size in SIZES
    ]


def _streams(noisy: _Noise) -> list[Result]:
    results = []
    for (driver, channel), (start, per_byte, copies) in CHANNELS.items():
        for size in SIZES:
            seconds = start / 8 + size * per_byte / 2
            name = "memcpy (1 copy)" if copies == 1 else "memcpy (2 copies)"
            result = noisy.over(
                driver,
                channel,
                seconds=seconds,
                workload="stream",
                message_bytes=size,
                window=max(1, min(1024, (1 << 20) // size)),
                operation="message",
                limit=(name, copies * max(size * COPY_S_PER_BYTE, 2e-9)) if copies else None,
                flags=["untrusted"] if (channel, size) == ("mp_queue", 8) else [],
            )
            if copies and result.median is not None:
                result.bytes_per_second = size / result.median
            results.append(result)
    return results


def _regions(noisy: _Noise) -> list[Result]:
    return [
        noisy.result(
            55e-9 if pages == "prefault" else 61e-9,
            region=region,
            pages=pages,
            directory="/dev/shm" if region == "file" else None,
            percentiles=True,
            limit=("core_to_core", CORE_TO_CORE_S),
        )
        for region in REGIONS
        for pages in ("prefault", "thp")
        if (region, pages) != ("anonymous", "prefault")
    ]


def _placements(noisy: _Noise) -> list[Result]:
    return [
        noisy.over(
            "native",
            channel,
            seconds=CHANNELS["native", channel][0] / 4,
            placement="same_cpu",
            cpus=[0, 0],
            percentiles=True,
            limit=("core_to_core", CORE_TO_CORE_S),
        )
        for channel in ("semaphore", "pipe")
    ]


def _groups_of_ranks(noisy: _Noise) -> list[Result]:
    results = [
        noisy.over(
            "native",
            channel,
            seconds=CHANNELS["native", channel][0] * factor,
            workload=workload,
            ranks=3,
            cpus=[0, 1, 2],
            operation=operation,
            flags=["oversubscribed"],
        )
        for channel in ("spin", "futex", "pipe")
        for workload, factor, operation in (
            ("fan_out", 2.2, "message to all"),
            ("fan_in", 1.7, "message"),
            ("barrier", 3.0, "barrier"),
        )
    ]
    results += [
        noisy.result(
            seconds,
            workload="contention",
            variant=variant,
            channel=None,
            operation="atomic add",
            message_bytes=None,
        )
        for variant, seconds in (
            ("one_line", 21e-9),
            ("separate_lines", 5e-9),
            ("false_sharing", 20e-9),
        )
    ]
    return results


def _core_to_core(noisy: _Noise, cpus: int) -> list[Result]:
    return [
        noisy.result(
            CORE_TO_CORE_S * (1 if second // 2 == first // 2 else 2.4),
            workload="core_to_core",
            channel=None,
            placement=f"{first},{second}",
            cpus=[first, second],
            operation="one-way hand-over",
            message_bytes=None,
        )
        for first in range(cpus)
        for second in range(first + 1, cpus)
    ]


def _failures(noisy: _Noise) -> list[Result]:
    return [
        sample_result(
            host=noisy.host,
            channel=channel,
            region=region,
            samples=[],
            median=None,
            ci=None,
            error=Failure(type=kind, message=message, remedy=remedy),
        )
        for channel, region, kind, message, remedy in (
            (
                "spin",
                "hugetlb",
                "Unavailable",
                "hugetlb: no huge pages are reserved (vm.nr_hugepages = 0)",
                "reserve some with: sysctl vm.nr_hugepages=64",
            ),
            ("posix_mq", None, "PeerFailed", "rank 1 was killed by signal 9 (SIGKILL)", None),
        )
    ]
