"""Which cases a run has: a suite is a list of selections, a selection a product of axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from shmbench.cases import Cache, Case, Launcher
from shmbench.channels import CHANNELS, Channel, ChannelSpec, Driver
from shmbench.errors import Unavailable, UsageError
from shmbench.limits import limit_of
from shmbench.measure.placement import (
    Topology,
    available,
    closest_pair_name,
    pairs,
    representative_pairs,
    resolve,
)
from shmbench.regions import REGIONS, Pages, Region, RegionSpec
from shmbench.regions.file import default_directories
from shmbench.regions.mounts import mount_of
from shmbench.registry import nearest
from shmbench.workloads import WORKLOADS, Workload

_KIB, _MIB = 1024, 1024 * 1024
_MATRIX_PAIRS_MAX = 66  # all pairs of 12 CPUs; above, one pair a distance


@dataclass(frozen=True)
class Selection:
    """A product of axes; an axis that is None takes each workload's or region's own default.

    Attributes:
        channels: kinds, each with all of its drivers; None: all there are.
        driver: only channels and workloads of this driver; None: both.
        placements: names or lists of CPUs; "pairs" stands for all pairs of CPUs.
        directories: for regions that live in one; None: one on tmpfs and one on disk.
        policies, caches, file_sizes: for workloads that read files.
    """

    workloads: tuple[str, ...]
    channels: tuple[str, ...] | None = None
    driver: Driver | None = None
    regions: tuple[str, ...] | None = None
    pages: tuple[Pages, ...] | None = None
    sizes: tuple[int, ...] = (8, 4 * _KIB, _MIB)
    ranks: int | None = None
    placements: tuple[str, ...] | None = None
    directories: tuple[str, ...] | None = None
    first_touch: int = 0
    numa: str = "local"
    policies: tuple[str, ...] | None = None
    caches: tuple[Cache, ...] | None = None
    file_sizes: tuple[int, ...] | None = None
    launcher: Launcher = "process"


@dataclass(frozen=True)
class Suite:
    """A named plan: what it measures, and how long it takes unless told otherwise."""

    summary: str
    selections: tuple[Selection, ...]
    budget_s: float


@dataclass
class Plan:
    """The cases of a run, the limits' cases among them, and what was left out and why."""

    cases: list[Case] = field(default_factory=list)
    left_out: dict[str, Unavailable] = field(default_factory=dict)


_SIZES = (8, 64, 512, 4 * _KIB, 32 * _KIB, 256 * _KIB, _MIB, 8 * _MIB, 64 * _MIB)
_REGIONS = ("file", "posix_shm", "memfd", "hugetlb", "mp_shm")
_REGION: dict[Launcher, str] = {"process": "anonymous", "mpi": "mpi_window"}  # unless told

SUITES: dict[str, Suite] = {
    "quick": Suite(
        "two minutes: every channel at a small and a large message, regions, placements, pages",
        (
            Selection(("ping_pong",), sizes=(8, 64 * _KIB)),
            Selection(("stream",), sizes=(8, _MIB)),
            Selection(("ping_pong",), ("spin",), regions=_REGIONS, sizes=(8,)),
            Selection(("ping_pong",), ("semaphore", "pipe"), placements=("same_cpu",), sizes=(8,)),
            Selection(("stream",), ("spin",), pages=("untouched",), sizes=(_MIB,)),
            Selection(("bidirectional",), ("spin", "pipe"), sizes=(_MIB,)),
            Selection(("barrier",), ("spin", "futex")),
            Selection(("fan_out", "fan_in"), ("spin", "pipe"), sizes=(4 * _KIB,)),
            Selection(("contention",)),
            Selection(("core_to_core",), placements=("representative",)),
        ),
        95,
    ),
    "ipc": Suite(
        "every workload, channel and region over all sizes, 8 B to 64 MiB",
        (
            Selection(("ping_pong", "stream", "bidirectional"), sizes=_SIZES),
            Selection(("fan_out", "fan_in"), sizes=(8, 4 * _KIB, _MIB)),
            Selection(("barrier",)),
            Selection(("ping_pong", "stream"), ("spin",), regions=_REGIONS, sizes=_SIZES),
            Selection(
                ("ping_pong", "stream"),
                ("spin",),
                pages=("untouched", "thp", "hugetlb"),
                sizes=(4 * _KIB, _MIB, 64 * _MIB),
            ),
            Selection(("ping_pong",), placements=("available",), sizes=(8,)),
            Selection(("contention",)),
            Selection(("core_to_core",), placements=("pairs",)),
        ),
        1500,
    ),
}
_FILE, _WARM_BYTES = ("file",), 64 * _MIB
_UNORDERED = ("random_read", "strided", "zipf")
_ORDERED = ("scan", "reverse", "streams")
SUITES["policy"] = Suite(
    "every order of reading by every policy, cold and warm; mapping, flushing, forking",
    (
        Selection(
            _UNORDERED,
            driver="python",
            regions=_FILE,
            caches=("cold",),
            file_sizes=(1024 * _MIB,),
        ),
        # A wrong hint on a cold file costs a hundred microseconds a page: a small file will do.
        Selection(
            _ORDERED, driver="python", regions=_FILE, caches=("cold",), file_sizes=(64 * _MIB,)
        ),
        Selection(
            _ORDERED + _UNORDERED,
            driver="python",
            regions=_FILE,
            caches=("warm",),
            file_sizes=(_WARM_BYTES,),
        ),
        Selection(
            ("scan", "random_read"),
            driver="native",
            regions=_FILE,
            caches=("warm",),
            file_sizes=(_WARM_BYTES,),
        ),
        Selection(("read_vs_mmap",), regions=_FILE, file_sizes=(_WARM_BYTES,)),
        Selection(("first_touch",)),
        Selection(("first_touch",), regions=("anonymous",), pages=("thp",)),
        Selection(("reopen", "map_unmap", "flush", "fork_cost", "shootdown")),
        Selection(("over_memory",), file_sizes=(_WARM_BYTES,)),
    ),
    780,
)
SUITES["survey"] = Suite(
    "a minute that tells a slow node: latency, bandwidth, wake-ups, first touch",
    (
        Selection(("core_to_core",), placements=("representative",)),
        Selection(("ping_pong",), ("spin",), driver="native", sizes=(8, 4 * _KIB)),
        Selection(("ping_pong",), ("futex", "pipe"), driver="native", sizes=(8,)),
        Selection(("stream",), ("spin",), driver="native", sizes=(4 * _KIB, _MIB, 8 * _MIB)),
        Selection(("contention",), driver="native"),
        Selection(("first_touch",), driver="native"),
        Selection(("first_touch",), driver="native", regions=("anonymous",), pages=("thp",)),
    ),
    60,
)
_MPI_REGIONS = ("mpi_window_noncontig", "mpi_mmap", "posix_shm", "file", "memfd")
_MPI_SIZES = (8, 4 * _KIB, _MIB, 4 * _MIB)
SUITES["mpi"] = Suite(
    "MPI ranks: a shared window, memory of one's own, messages, one-sided operations",
    tuple(
        replace(each, launcher="mpi")
        for each in (
            Selection(("ping_pong", "stream"), sizes=_MPI_SIZES),
            Selection(("ping_pong",), ("spin",), regions=_MPI_REGIONS, sizes=_MPI_SIZES),
            Selection(("bidirectional",), sizes=(_MIB,)),
            Selection(("overlap", "one_sided", "one_sided_stream"), sizes=(8, 4 * _KIB, _MIB)),
            Selection(("collective_overlap",), sizes=(4 * _KIB, _MIB)),
            Selection(("open_region",), regions=("mpi_window", *_MPI_REGIONS), sizes=(_MIB,)),
            Selection(("fan_out", "fan_in", "multi_pair"), sizes=(8, 4 * _KIB, _MIB)),
            Selection(("barrier", "collective_barrier")),
            Selection(("bcast", "allreduce", "allgather", "alltoall"), sizes=_MPI_SIZES),
            Selection(("contention",)),
            Selection(("core_to_core",), placements=("representative",)),
            # Does map-ahead by one rank help the others? And what if all have the policy?
            Selection(("one_ahead",), driver="python", regions=_FILE, caches=("cold",)),
            Selection(
                ("one_ahead", "scan"),
                driver="python",
                regions=_FILE,
                policies=("none", "populate", "map_ahead"),
                caches=("warm",),
                file_sizes=(_WARM_BYTES,),
            ),
        )
    ),
    300,
)
SUITES["all"] = Suite(
    "all suites",
    SUITES["ipc"].selections + SUITES["quick"].selections + SUITES["policy"].selections,
    2600,
)


def suite(name: str) -> Suite:
    """The suite of that name.

    Raises:
        UsageError: there is none; the remedy is the nearest match.
    """
    if name not in SUITES:
        raise UsageError(f"unknown suite {name!r}", nearest(name, SUITES))
    return SUITES[name]


Carrier = tuple[type[Channel] | None, Driver]


def _channels(selection: Selection, workload: type[Workload]) -> list[Carrier]:
    """The channels of a selection that this workload can use; None where it uses none."""
    if not workload.uses_channel:
        return [(None, each) for each in workload.drivers if selection.driver in (None, each)]
    known = {name.partition("/")[2] for name in CHANNELS.names()}
    for kind in selection.channels or ():
        if kind not in known:
            raise UsageError(f"unknown channel {kind!r}", nearest(kind, known))
    chosen: list[Carrier] = []
    for name in CHANNELS.names():
        driver, _, kind = name.partition("/")
        if (
            driver in workload.drivers
            and selection.driver in (None, driver)
            and (selection.channels is None or kind in selection.channels)
        ):
            channel = CHANNELS.get(name)
            if selection.channels or _launchable(channel, selection.launcher) is None:
                chosen.append((channel, channel.driver))
    return chosen


def _launchable(kind: type[Channel] | type[Region], launcher: Launcher) -> Unavailable | None:
    """Why ranks of this launcher can't have such a channel or region; None when they can."""
    if launcher == "mpi" and kind.needs_fork:
        return Unavailable(
            f"{kind.kind}: it passes by inheritance only, and MPI ranks inherit nothing",
            "take --launcher process, or choose another",
        )
    if launcher == "process" and kind.needs_mpi:
        return Unavailable(f"{kind.kind}: only MPI ranks have it", "take --launcher mpi")
    return None


def _placements(selection: Selection, topology: Topology, ranks: int) -> list[str]:
    found: list[str] = []
    default = "same_cpu" if ranks == 1 else closest_pair_name(topology)
    for name in selection.placements or (default,):
        if name == "available":
            offered = available(topology)
            found += [n for n, cpus in offered.items() if not isinstance(cpus, Unavailable)]
        elif name in ("pairs", "representative"):
            all_pairs = pairs(topology)
            few = name == "representative" or len(all_pairs) > _MATRIX_PAIRS_MAX
            chosen = representative_pairs(topology) if few else all_pairs
            found += [f"{a},{b}" for a, b, _ in chosen]
        else:
            found.append(name)
    return found


def _directories(
    selection: Selection, region: str | None, cache: Cache | None = None
) -> list[str | None]:
    if region is None or not REGIONS.get(region).takes_directory:
        return [None]
    if selection.directories is not None:
        return list(selection.directories)
    found = default_directories()
    return [each for each in found if cache != "cold" or not _in_memory(each)]


def _in_memory(directory: str) -> bool:
    mount = mount_of(directory)
    return mount is not None and mount.in_memory


def _pages(selection: Selection, region: str | None) -> tuple[Pages, ...]:
    if selection.pages is not None:
        return selection.pages
    return (REGIONS.get(region).default_pages,) if region else ("prefault",)


def _ranks(selection: Selection, workload: type[Workload]) -> int:
    ranks = selection.ranks or workload.default_ranks
    return max(workload.min_ranks, min(ranks, workload.max_ranks or ranks))


def _expand(selection: Selection, topology: Topology) -> Iterator[Case]:
    """All cases of a selection, available or not."""
    for name in selection.workloads:
        workload = WORKLOADS.get(name)
        if workload.family == "policy":
            yield from _expand_policies(name, selection, topology)
            continue
        sizes: tuple[int | None, ...] = selection.sizes if workload.has_sizes else (None,)
        ranks = _ranks(selection, workload)
        for (channel, driver), size, variant, placement in itertools.product(
            _channels(selection, workload),
            sizes,
            workload.variants,
            _placements(selection, topology, ranks),
        ):
            needs_region = workload.uses_region or (channel is not None and channel.uses_region)
            given = selection.regions or (_REGION[selection.launcher],)
            regions = given if needs_region else (None,)
            for region in regions:
                for pages, directory in itertools.product(
                    _pages(selection, region), _directories(selection, region)
                ):
                    case = Case(
                        workload=name,
                        variant=variant,
                        channel=channel.kind if channel else None,
                        driver=driver,
                        region=region,
                        pages=pages,
                        directory=directory,
                        message_bytes=size,
                        ranks=ranks,
                        placement=placement,
                        launcher=selection.launcher,
                        first_touch=selection.first_touch if region else None,
                        numa=selection.numa if region else None,
                        window=workload.default_window(size) if size else None,
                    )
                    if workload.fits(case):
                        yield case


def _expand_policies(name: str, selection: Selection, topology: Topology) -> Iterator[Case]:
    """All cases of a workload that maps files or memory by itself."""
    workload = WORKLOADS.get(name)
    ranks = _ranks(selection, workload)
    regions = tuple(r for r in workload.regions if r in (selection.regions or workload.regions))
    policies: tuple[str | None, ...] = tuple(
        each for each in workload.policies if each in (selection.policies or workload.policies)
    )
    caches: tuple[Cache | None, ...] = tuple(
        each for each in workload.caches if each in (selection.caches or workload.caches)
    )
    if (selection.policies and not policies) or (workload.caches and not caches):
        return
    sizes: tuple[int | None, ...] = selection.sizes if workload.has_sizes else (None,)
    for size, (_, driver), variant, placement, region, file_bytes, cache in itertools.product(
        sizes,
        _channels(selection, workload),
        workload.variants,
        _placements(selection, topology, ranks),
        regions,
        selection.file_sizes or workload.file_sizes or (None,),
        caches or (None,),
    ):
        for directory, policy in itertools.product(
            _directories(selection, region, cache), policies or (None,)
        ):
            case = Case(
                workload=name,
                variant=variant,
                driver=driver,
                region=region,
                pages=selection.pages[0] if selection.pages else None,
                directory=directory,
                policy=policy,
                cache=cache,
                file_bytes=file_bytes,
                message_bytes=size,
                ranks=ranks,
                placement=placement,
                launcher=selection.launcher,
            )
            if workload.fits(case):
                yield case


def layout(
    case: Case, *, yielding: bool = False
) -> tuple[ChannelSpec | None, ChannelSpec | None, RegionSpec | None]:
    """What a case opens: its channel, the channel of its acknowledgements, and its region.

    The region holds the channel's part, then the acknowledgements', then the workload's own.

    Args:
        yielding: ranks share a CPU.
    """
    workload = WORKLOADS.get(case.workload)
    channel_spec = ack_spec = None
    size = workload.region_bytes(case)
    if case.channel is not None:
        channel = CHANNELS.get(f"{case.driver}/{case.channel}")
        channel_spec = ChannelSpec(
            workload.links(case.ranks), workload.channel_bytes(case, channel), yielding
        )
        size += channel.region_bytes(channel_spec)
        acks = workload.ack_links(case.ranks)
        if acks:
            ack_spec = ChannelSpec(acks, 8, yielding)
            size += channel.region_bytes(ack_spec)
    region_spec = None
    if case.region is not None and not workload.regions:
        region_spec = RegionSpec(
            size,
            case.pages or "prefault",
            case.directory,
            case.numa or "local",
            case.first_touch or 0,
        )
    return channel_spec, ack_spec, region_spec


def reaches_nodes(case: Case) -> bool:
    """Can its ranks be on two nodes: in pairs, over a channel of MPI's?"""
    if case.channel is None or not WORKLOADS.get(case.workload).across_nodes:
        return False
    return CHANNELS.get(f"{case.driver}/{case.channel}").needs_mpi


def obstacle(case: Case, topology: Topology) -> Unavailable | None:
    """Why this machine can't measure a case; None when it can."""
    placement = resolve(case.placement, case.ranks, topology)
    workload = WORKLOADS.get(case.workload)
    if workload.needs_two_cpus and placement.shares_cpu:
        return Unavailable(
            f"{case.workload} spins without yielding, and ranks share a CPU here",
            "choose a --placement with a CPU for each rank",
        )
    if workload.needs_fork and case.launcher == "mpi":
        return Unavailable(
            f"{case.workload} wants processes made for it, which MPI ranks aren't",
            "take --launcher process",
        )
    channel_spec, _, region_spec = layout(case, yielding=placement.shares_cpu)
    if placement.nodes is not None and not reaches_nodes(case):
        return Unavailable(
            f"{case.label()}: it needs memory that ranks on two nodes don't share",
            "choose one of MPI's channels, and a workload of pairs such as ping_pong",
        )
    if case.channel is not None:
        channel = CHANNELS.get(f"{case.driver}/{case.channel}")
        found = _launchable(channel, case.launcher) or channel.probe(channel_spec)
        if found is not None:
            return found
    if case.region is not None and region_spec is not None:
        region = REGIONS.get(case.region)
        found = _launchable(region, case.launcher) or region.probe(region_spec)
        if found is not None:
            return found
    return workload.probe(case)


def plan(selections: tuple[Selection, ...], topology: Topology, *, asked_for: bool) -> Plan:
    """The cases of a run, in order, each once, followed by those that measure their limits.

    Args:
        asked_for: the user named what to measure, so a case that this machine can't measure stays
            in the plan, to fail; otherwise it is left out, with the reason.

    Raises:
        UsageError: an unknown kind, or a CPU that can't be used.
        Unavailable: a placement that this machine lacks.
    """
    made = Plan()
    cases: dict[Case, None] = {}
    for selection in selections:
        for case in _expand(selection, topology):
            why = None if asked_for else obstacle(case, topology)
            if why is None:
                cases[case] = None
            else:
                made.left_out[case.label()] = why
    for case in list(cases):
        limit = None if resolve(case.placement, case.ranks, topology).shares_cpu else limit_of(case)
        if limit is None or limit.case in cases:
            continue
        why = obstacle(limit.case, topology)
        if why is None:
            cases[limit.case] = None
        else:
            made.left_out[limit.case.label()] = why
    made.cases = list(cases)
    return made
