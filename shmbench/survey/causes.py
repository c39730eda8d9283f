"""Why a node may be slow: what doctor, facts and flags say of it, and not of its peers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shmbench import machine
from shmbench.cases import Case
from shmbench.measure.flags import Flag
from shmbench.results import NodeRun, Result

# What most peers share isn't what makes one node slow.
_UNUSUAL_SHARE = 0.5
_FLAGGED_SHARE = 0.25  # of the figures, beyond what is usual
_SIZES_ALIKE = 0.02  # kernels of one version keep different amounts of memory to themselves

# What somebody else does there now, checks of the doctor's: it slows everything.
_DISTURBING = ("other processes", "load now", "steal now", "cpu quota")
# What matters for memory, more than for messages.
_ABOUT_MEMORY = ("thp", "thp for shared memory", "huge pages", "swap", "numa balancing")
_MEMORY_WORKLOADS = ("first_touch", "memcpy", "stream", "bidirectional")
# The doctor has these facts in its words, with the remedy.
_SAID_BY_DOCTOR = {
    "thp_enabled": "thp",
    "thp_defrag": "thp",
    "thp_shmem_enabled": "thp for shared memory",
    "huge_pages": "huge pages",
    "shm_bytes": "/dev/shm",
    "swap_bytes": "swap",
    "governor": "governor",
    "boost": "boost",
    "numa_balancing": "numa balancing",
    "clock_source": "clock",
    "cgroup_cpus": "cpu quota",
}
# Found and fine on each node, but not the same.
_COMPARED_CHECKS = ("MPI",)
_FLAGS_OF_DISTURBANCE = (Flag.STEAL, Flag.FOREIGN_CPU, Flag.PREEMPTED, Flag.UNTRUSTED)


@dataclass(frozen=True)
class Cause:
    """One thing that is unusual about a node.

    Attributes:
        what: one line, with what the peers have where that helps.
        remedy: one line; None where none is known.
    """

    what: str
    remedy: str | None = None

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


class Peers:
    """What is usual among the sound nodes of a group."""

    def __init__(self, nodes: Sequence[tuple[NodeRun, Sequence[Result]]]) -> None:
        self._count = len(nodes)
        self._troubles = Counter[str]()
        self._found: dict[str, Counter[str]] = {}
        self._facts: dict[str, Counter[str]] = {}
        self._values: dict[tuple[str, str], Any] = {}
        self._flags = Counter[Flag]()
        self._figures = 0
        for node, results in nodes:
            for check in node.doctor:
                name = str(check["name"])
                self._troubles[name] += _is_trouble(check)
                if name in _COMPARED_CHECKS:
                    self._found.setdefault(name, Counter())[str(check["found"])] += 1
            for key, value in node.machine.items():
                shown = machine.show(key, value)
                self._facts.setdefault(key, Counter())[shown] += 1
                self._values[key, shown] = value
            self._figures += len(results)
            for result in results:
                self._flags.update(flag for flag in _FLAGS_OF_DISTURBANCE if flag in result.flags)

    def causes(self, node: NodeRun, results: Sequence[Result], slow: Sequence[Case]) -> list[Cause]:
        """What is unusual about a node, the likeliest first.

        Args:
            slow: the cases in which it is slow.
        """
        found = [*self._by_doctor(node), *self._by_facts(node)]
        memory = [case for case in slow if case.workload in _MEMORY_WORKLOADS or case.file_bytes]
        about_memory = 2 * len(memory) > len(slow)
        ranked = sorted(found, key=lambda item: _rank(item[0], about_memory))
        return [*(cause for _, cause in ranked), *self._by_flags(results)]

    def _by_doctor(self, node: NodeRun) -> list[tuple[str, Cause]]:
        found = []
        for check in node.doctor:
            name = str(check["name"])
            if _is_trouble(check) and self._troubles[name] < _UNUSUAL_SHARE * self._count:
                found.append((name, Cause(f"{name}: {check['found']}", check["remedy"])))
            elif name in self._found:
                usual = self._found[name].most_common(1)[0][0]
                if usual != check["found"]:
                    found.append((name, Cause(f"{name}: {check['found']}; its peers: {usual}")))
        return found

    def _by_facts(self, node: NodeRun) -> list[tuple[str, Cause]]:
        said = {name for name, _ in self._by_doctor(node)}
        found = []
        for key, value in node.machine.items():
            fact = machine.FACTS.get(key)
            if fact is None or fact.role != "setting" or key == "hostname":
                continue
            if _SAID_BY_DOCTOR.get(key) in said or key not in self._facts:
                continue
            shown = machine.show(key, value)
            usual, times = self._facts[key].most_common(1)[0]
            if 2 * times > self._count and not _alike(value, self._values[key, usual]):
                about = _SAID_BY_DOCTOR.get(key, key)
                found.append((about, Cause(f"{key}: {shown}; its peers: {usual}")))
        return found

    def _by_flags(self, results: Sequence[Result]) -> list[Cause]:
        """Disturbance that the figures saw themselves."""
        found = []
        for flag in _FLAGS_OF_DISTURBANCE:
            count = sum(flag in result.flags for result in results)
            usual = self._flags[flag] / max(1, self._figures)
            if count > (usual + _FLAGGED_SHARE) * len(results):
                what = f"{count} of {len(results)} figures are flagged {flag.value}: {flag.text}"
                found.append(Cause(what, flag.hint))
        return found


def _is_trouble(check: dict[str, str | None]) -> bool:
    return check["status"] in ("warn", "missing")


def _alike(value: Any, usual: Any) -> bool:
    numbers = isinstance(value, int | float) and isinstance(usual, int | float)
    if numbers and not isinstance(value, bool):
        return bool(abs(value - usual) <= _SIZES_ALIKE * max(abs(value), abs(usual)))
    return bool(value == usual)


def _rank(name: str, about_memory: bool) -> int:
    """0 is likeliest."""
    if name in _ABOUT_MEMORY:
        return 0 if about_memory else 3
    if name in _DISTURBING:
        return 1
    return 2
