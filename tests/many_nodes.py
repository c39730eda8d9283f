"""A survey of many nodes, made from one plausible run with a realistic spread."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from sample_results import sample_result

from shmbench.results import SCHEMA, Result, ResultFile, save

MACHINE: dict[str, Any] = {
    "arch": "x86_64",
    "cpu_model": "AMD EPYC 9654",
    "cpus_online": 192,
    "cores": 192,
    "memory_bytes": 768 << 30,
    "kernel": "6.1.0",
    "governor": "performance",
    "thp_enabled": "madvise",
    "shm_bytes": 384 << 30,
    "huge_pages": {"2048kB": 64},
}
DOCTOR: list[dict[str, str | None]] = [
    {"name": name, "status": "ok", "found": found, "cost": None, "remedy": None}
    for name, found in (
        ("other processes", "none is busy on the allowed CPUs"),
        ("steal now", "CPU 0 0%"),
        ("thp", "enabled: madvise"),
        ("governor", "performance"),
        ("/dev/shm", "384 GiB, 383 GiB free"),
        ("MPI", "MPICH 4.2: /usr/lib/libmpi.so"),
        *((f"channel native/{number}", "works") for number in range(40)),
    )
]


def base_results() -> list[Result]:
    """24 figures of 4 workloads, as on a sound node."""
    sizes = (8, 64, 512, 4096, 65536, 1 << 20)
    found = [
        sample_result(workload=workload, channel=channel, message_bytes=size)
        for workload, channels in (
            ("ping_pong", ("spin", "futex")),
            ("stream", ("spin",)),
            ("bidirectional", ("spin",)),
        )
        for channel in channels
        for size in sizes
    ]
    for number, result in enumerate(found):
        scale(result, 1 + number)
    return found


def scale(result: Result, factor: float) -> None:
    """Make every time of a result so many times as long."""
    result.samples = [sample * factor for sample in result.samples]
    result.median = (result.median or 0.0) * factor
    result.ci = [end * factor for end in result.ci or ()]


def make_nodes(count: int, seed: int = 1) -> dict[str, ResultFile]:
    """By host. Chips differ by 1 %; each figure is skewed to the slow side with a heavy tail.

    The spread of a figure is 2 % times a t distribution with 4 degrees of freedom, whose slow side
    is half as wide again; so among 500 nodes by 24 figures the worst sound one is 40 to 100 % slow.
    """
    random = np.random.default_rng(seed)
    base = base_results()
    nodes = {}
    for number in range(count):
        host = f"n{number + 1:03}"
        results = copy.deepcopy(base)
        chip = random.normal(0, 0.01)
        for result in results:
            noise = 0.02 * random.standard_t(4)
            scale(result, float(np.exp(chip + (noise * 1.5 if noise > 0 else noise))))
            result.host = host
        nodes[host] = ResultFile(
            schema=SCHEMA,
            machine={**MACHINE, "hostname": host},
            created="2026-01-01T02:00:00+00:00",
            plan={"suite": "survey", "interrupted": False, "elapsed_s": 60.0, "left_out": {}},
            results=results,
            doctor=copy.deepcopy(DOCTOR),
        )
    return nodes


def slow_down(file: ResultFile, factor: float, workload: str | None = None) -> None:
    """Make a node slow, in one workload or in all."""
    for result in file.results:
        if workload in (None, result.workload):
            scale(result, factor)


def find_trouble(file: ResultFile, name: str, found: str, remedy: str) -> None:
    """Have the doctor find something on a node."""
    for check in file.doctor or ():
        if check["name"] == name:
            check.update(status="warn", found=found, cost="x", remedy=remedy)


def write_nodes(nodes: dict[str, ResultFile], directory: Path) -> None:
    """As a survey's job leaves them."""
    for host, file in nodes.items():
        save(file, directory / f"{host}.json")
    (directory / "expected").write_text("\n".join(nodes) + "\n")


def plant_five(nodes: dict[str, ResultFile]) -> dict[str, str]:
    """Make five nodes slow in five ways; gives the word that the cause shall have, by host."""
    hosts = list(nodes)
    words = ("hog", "steal", "thp", "governor", "kernel")
    chosen = dict(zip(hosts[7 :: len(hosts) // 5][:5], words, strict=True))
    busy, stolen, thp, governor, kernel = (nodes[host] for host in chosen)
    slow_down(busy, 2.0)
    find_trouble(busy, "other processes", "hog (pid 7) 100% on CPU 1", "stop them")
    slow_down(stolen, 1.3)
    find_trouble(stolen, "steal now", "CPU 0 12%", "measure when the host is quiet")
    slow_down(thp, 1.4, "stream")
    find_trouble(thp, "thp", "enabled: never", "echo madvise > ...")
    slow_down(governor, 1.25)
    find_trouble(governor, "governor", "powersave", "cpupower frequency-set")
    slow_down(kernel, 1.5, "ping_pong")
    kernel.machine["kernel"] = "5.14.0"
    return chosen
