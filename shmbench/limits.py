"""What a figure stands beside: the case that measures what the hardware can do, in the same run."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from shmbench.cases import Case, Launcher
from shmbench.channels import CHANNELS
from shmbench.workloads import WORKLOADS
from shmbench.workloads.barrier import rounds

# Below, handing over the line dominates a one-way message; above, copying its bytes does.
_LATENCY_BYTES_MAX = 4096
# MPI ranks are no relatives, so they can't share what is shared by inheritance only.
_REGION: dict[Launcher, str] = {"process": "anonymous", "mpi": "memfd"}


@dataclass(frozen=True)
class LimitCase:
    """A limit: its name in results, the case that measures it, and how many times it counts."""

    name: str
    case: Case
    times: int = 1


def _hand_over(case: Case, times: int = 1) -> LimitCase:
    return LimitCase(
        "core_to_core",
        Case(
            workload="core_to_core",
            driver="native",
            ranks=2,
            placement=case.placement,
            region=_REGION[case.launcher],
            launcher=case.launcher,
            pages="prefault",
            first_touch=0,
            numa="local",
        ),
        times,
    )


def _copies(case: Case, copies: int, times: int = 1) -> LimitCase:
    return LimitCase(
        f"memcpy ({copies} {'copy' if copies == 1 else 'copies'})",
        Case(
            workload="memcpy",
            driver="native",
            ranks=2,
            placement=case.placement,
            variant="one_copy" if copies == 1 else "two_copies",
            region=_REGION[case.launcher],
            launcher=case.launcher,
            pages="prefault",
            message_bytes=case.message_bytes,
            first_touch=0,
            numa="local",
        ),
        times,
    )


def _of_policy(case: Case) -> LimitCase | None:
    """Of a cold file read in no order: the device. Of a warm one: a mapping that is there."""
    if case.cache == "cold":
        if case.workload not in ("random_read", "zipf", "strided"):
            return None
        device = Case(
            workload="device",
            driver="native",
            ranks=1,
            placement=case.placement,
            region="file",
            directory=case.directory,
            file_bytes=case.file_bytes,
            launcher=case.launcher,
        )
        return LimitCase("device, random reads at depth 64", device)
    limit = WORKLOADS.get(case.workload).warm_limit
    if limit in (None, case.policy):
        return None
    return LimitCase("mapped already", replace(case, policy=limit))


def limit_of(case: Case) -> LimitCase | None:
    """The limit of a case; None where there is none to state.

    There is none for the null channel, for ranks that share a CPU or are on two nodes, and for more
    than two ranks.
    """
    if case.policy is not None:
        return _of_policy(case)
    if case.channel is None or case.placement == "same_cpu" or case.ranks != 2:
        return None
    if case.placement.startswith("across:") or not WORKLOADS.get(case.workload).has_limit:
        return None
    copies = min(2, CHANNELS.get(f"{case.driver}/{case.channel}").copies)
    if copies == 0:
        return None
    if case.workload == "barrier":
        return _hand_over(case, rounds(case.ranks))
    assert case.message_bytes is not None
    if case.workload == "ping_pong" and case.message_bytes <= _LATENCY_BYTES_MAX:
        return _hand_over(case)
    return _copies(case, copies, 2 if case.workload == "bidirectional" else 1)
