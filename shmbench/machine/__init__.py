"""What this node is: the facts that stand in every result file, and what they mean to `compare`.

One registry says of each fact its type, unit, role, reader and formatter; whoever shows facts asks
it. No fact names a person or a serial number.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from shmbench.host import host_name
from shmbench.machine import readers
from shmbench.measure.sysfs import format_cpus
from shmbench.units import format_bytes

Role = Literal["hardware", "setting", "state"]

# Kernels of different versions keep different amounts of the same memory to themselves.
MEMORY_TOLERANCE = 0.02


def _plain(value: Any) -> str:
    return str(value)


def _switch(value: bool) -> str:
    return "on" if value else "off"


def _list(value: list[Any]) -> str:
    return ", ".join(str(item) for item in value)


def _dict(value: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {item}" for key, item in value.items()) or "none"


@dataclass(frozen=True)
class Fact:
    """One thing to know about the machine.

    Attributes:
        key: in the result file's "machine".
        type: of the value; None stands for "the machine does not tell", or "no such limit".
        role: "hardware" tells two machines apart; a "setting" (kernel, library, switch) is what
            an upgrade changes; a "state" differs from minute to minute.
        read: gives the value, from the root of a file system.
        show: the value as text; bytes are scaled, counts stand alone.
        unit: of the value itself; None for text and switches.
    """

    key: str
    type: type
    role: Role
    read: Callable[[Path], Any]
    show: Callable[[Any], str] = _plain
    unit: str | None = None


def _version(package: str) -> Callable[[Path], str]:
    return lambda root: version(package)


def _cache(level: int) -> Callable[[Path], int | None]:
    return lambda root: readers.cache_bytes(root, level)


def _thp(switch: str) -> Callable[[Path], str | None]:
    return lambda root: readers.transparent_huge_pages(root, switch)


_REGISTRY = (
    Fact("arch", str, "hardware", lambda root: platform.machine()),
    Fact("cpu_model", str, "hardware", readers.cpu_model),
    Fact("cpus_online", int, "hardware", lambda root: len(readers.online(root)), unit="CPUs"),
    Fact("cores", int, "hardware", readers.cores, unit="cores"),
    Fact("smt_active", bool, "hardware", readers.smt_active, _switch),
    Fact("l1d_bytes", int, "hardware", _cache(1), format_bytes, "B"),
    Fact("l2_bytes", int, "hardware", _cache(2), format_bytes, "B"),
    Fact("l3_bytes", int, "hardware", _cache(3), format_bytes, "B"),
    Fact("numa_nodes", int, "hardware", readers.numa_nodes, unit="nodes"),
    Fact(
        "memory_bytes",
        int,
        "hardware",
        lambda root: readers.meminfo_bytes(root, "MemTotal"),
        format_bytes,
        "B",
    ),
    Fact("hypervisor", str, "hardware", readers.hypervisor),
    Fact("hostname", str, "setting", lambda root: host_name()),
    Fact("kernel", str, "setting", lambda root: platform.release()),
    Fact(
        "distribution",
        str,
        "setting",
        lambda root: platform.freedesktop_os_release()["PRETTY_NAME"],
    ),
    Fact("cpus_allowed", str, "setting", lambda root: format_cpus(os.sched_getaffinity(0))),
    Fact("governor", str, "setting", readers.governor),
    Fact("frequency_driver", str, "setting", readers.frequency_driver),
    Fact("boost", bool, "setting", readers.boost, _switch),
    Fact("microcode", str, "setting", lambda root: readers.cpuinfo(root, "microcode")),
    Fact("mitigations", dict, "setting", readers.mitigations, _dict),
    Fact("clock_source", str, "setting", readers.clock_source),
    Fact("page_bytes", int, "setting", lambda root: os.sysconf("SC_PAGESIZE"), format_bytes, "B"),
    Fact("thp_enabled", str, "setting", _thp("enabled")),
    Fact("thp_defrag", str, "setting", _thp("defrag")),
    Fact("thp_shmem_enabled", str, "setting", _thp("shmem_enabled")),
    Fact("huge_pages", dict, "setting", readers.huge_pages, _dict, "pages"),
    Fact("numa_balancing", bool, "setting", readers.numa_balancing, _switch),
    Fact(
        "swap_bytes",
        int,
        "setting",
        lambda root: readers.meminfo_bytes(root, "SwapTotal"),
        format_bytes,
        "B",
    ),
    Fact("shm_bytes", int, "setting", readers.shm_bytes, format_bytes, "B"),
    Fact("cgroup_memory_bytes", int, "setting", readers.cgroup_memory_bytes, format_bytes, "B"),
    Fact("cgroup_cpus", float, "setting", readers.cgroup_cpus, unit="CPUs"),
    Fact("python", str, "setting", lambda root: platform.python_version()),
    Fact("python_implementation", str, "setting", lambda root: platform.python_implementation()),
    Fact("gil_enabled", bool, "setting", readers.gil_enabled, _switch),
    Fact("libc", str, "setting", readers.libc),
    Fact("shmbench", str, "setting", _version("shmbench")),
    Fact("numpy", str, "setting", _version("numpy")),
    Fact("mpi4py", str, "setting", _version("mpi4py")),
    Fact("posix_ipc", str, "setting", _version("posix_ipc")),
    Fact("shm_free_bytes", int, "state", readers.shm_free_bytes, format_bytes, "B"),
    Fact("load_average", list, "state", readers.load_average, _list),
)

FACTS: dict[str, Fact] = {fact.key: fact for fact in _REGISTRY}


def facts(root: Path = Path("/")) -> dict[str, Any]:
    """All facts of this machine, by key. What can't be read is None; nothing is raised.

    Args:
        root: where /proc, /sys and /dev/shm are looked for.
    """
    return {fact.key: _read(fact, root) for fact in _REGISTRY}


def _read(fact: Fact, root: Path) -> Any:
    # Facts are an extra: no oddity of a machine may stop a measurement.
    try:
        return fact.read(root)
    except Exception:
        return None


def shared(machines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts that all these machines have in common; None for one in which they differ."""
    keys = dict.fromkeys(key for each in machines for key in each)
    return {key: agreed([each.get(key) for each in machines]) for key in keys}


def agreed(values: Sequence[object]) -> Any:
    """What all these values are; None where they differ."""
    return values[0] if values and all(value == values[0] for value in values) else None


def show(key: str, value: Any) -> str:
    """A fact's value as text; a key that another version wrote is shown as it is."""
    if value is None:
        return "unknown"
    fact = FACTS.get(key)
    return fact.show(value) if fact and isinstance(value, fact.type) else str(value)


def differences(base: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Why two results are not of the same machine, one line a fact; none when they may be compared.

    The hardware decides. A host name alone does not: containers get a new one each time, and the
    nodes of a cluster are alike; but it is named first when the hardware differs. What either
    side does not know decides nothing.
    """
    lines = [
        line
        for key in FACTS
        if FACTS[key].role == "hardware"
        and base.get(key) is not None
        and new.get(key) is not None
        and not _same_hardware(key, base[key], new[key])
        for line in _contrast(key, base[key], new[key])
    ]
    return _contrast("hostname", base.get("hostname"), new.get("hostname")) + lines if lines else []


def _same_hardware(key: str, base: Any, new: Any) -> bool:
    if key == "memory_bytes" and isinstance(base, int) and isinstance(new, int):
        return abs(base - new) <= MEMORY_TOLERANCE * max(base, new)
    return bool(base == new)


def changes(base: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What else differs, one line a setting: possible causes of a difference in the figures.

    Keys that only one of the two files has are left out: another version of shmbench wrote it.
    """
    return [
        line
        for key in FACTS
        if FACTS[key].role == "setting" and key in base and key in new
        for line in _contrast(key, base[key], new[key])
    ]


def _contrast(key: str, base: Any, new: Any) -> list[str]:
    """The line "key: A / B" where the two differ; of tables, a line for each entry that does."""
    if base == new:
        return []
    if isinstance(base, dict) and isinstance(new, dict):
        return [
            f"{key} {entry}: {base.get(entry, 'none')} / {new.get(entry, 'none')}"
            for entry in {**base, **new}
            if base.get(entry) != new.get(entry)
        ]
    return [f"{key}: {show(key, base)} / {show(key, new)}"]
