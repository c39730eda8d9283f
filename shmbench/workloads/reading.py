"""What all workloads share that read a file in some order, under a policy, cold or warm."""

from __future__ import annotations

import os
import resource
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from shmbench.cases import Cache, Case
from shmbench.channels import Driver
from shmbench.errors import Unavailable, ValidationFailed
from shmbench.measure.eviction import Residency, evict, read_in, residency
from shmbench.measure.flags import Flag
from shmbench.native.clock import monotonic_ns
from shmbench.native.memory import PAGE_BYTES
from shmbench.native.scan import Consumer
from shmbench.regions.fixture import Fixture, FixtureSpec
from shmbench.regions.mounts import mount_of, new_files_are_dax
from shmbench.workloads import Context, Workload
from shmbench.workloads.patterns import Offsets
from shmbench.workloads.policies import POLICIES, READING, Target

_MIB = 1 << 20
# A pass gives its pages back in one order, and the next one gets them in the other. Of pages that
# don't follow each other in memory a device's request holds fewer: cold 1 GiB, backwards, took 560
# to 620 requests and 1000 to 1040 by turns, and 0.70 and 0.82 s.
COLD_TOGETHER = 2


def not_evictable(directory: str | None) -> Unavailable | None:
    """Why a file in this directory can't be made cold; None when nothing is known against it."""
    mount = mount_of(directory) if directory is not None else None
    if directory is None or mount is None:
        return None
    remedy = "choose a --dir on a disk, or --cache warm"
    if mount.in_memory:
        why = f"{directory} is on {mount.filesystem}: its files are memory, so they are never cold"
        return Unavailable(why, remedy)
    if new_files_are_dax(directory):
        why = (
            f"{directory} is on {mount.filesystem} with DAX: its files are mapped where they lie, "
            "without the page cache, so they are never cold"
        )
        return Unavailable(why, remedy)
    return None


def read_bytes() -> int:
    """What this process and its threads had read from devices (proc_pid_io(5)); 0 if not told."""
    with suppress(OSError):
        for line in Path("/proc/self/io").read_text().splitlines():
            name, _, value = line.partition(": ")
            if name == "read_bytes":
                return int(value)
    return 0


@contextmanager
def with_helpers(cpu: int, helper_cpus: frozenset[int]) -> Iterator[None]:
    """In its body, threads that a policy starts may run on other CPUs than this one.

    They inherit this thread's affinity, whenever they start; so it has to be wide for a while.
    """
    os.sched_setaffinity(0, {cpu} | helper_cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, {cpu})


class ReadingWorkload(Workload):
    """A pass over a file: each rank opens it under the policy and makes all accesses, in order.

    A batch is one pass, and begins with the file evicted or in memory, as `cache` says, and not
    mapped. What is read is compared, by a checksum in the order of the accesses, with what pread(2)
    reads.
    """

    family = "policy"
    drivers: ClassVar[tuple[Driver, ...]] = ("python", "native")
    uses_channel = False
    has_sizes = False
    moves_bytes = True
    regions: ClassVar[tuple[str, ...]] = ("file", "memfd")
    policies: ClassVar[tuple[str, ...]] = (*READING, "watch_userfaultfd")
    warm_limit: ClassVar[str | None] = "mapped"
    caches: ClassVar[tuple[Cache, ...]] = ("cold", "warm")
    file_sizes: ClassVar[tuple[int, ...]] = (256 * _MIB,)
    default_ranks = 1
    min_ranks = 1
    timing_rank: ClassVar[int | None] = None
    fixed_iterations = 1

    length: ClassVar[int] = PAGE_BYTES  # of an access, unless the case says it

    @classmethod
    @abstractmethod
    def offsets(cls, case: Case) -> Offsets:
        """The accesses."""

    @classmethod
    def access_bytes(cls, case: Case) -> int:
        """How long each access is."""
        return cls.length

    @classmethod
    def step(cls, case: Case) -> int:
        """Of each access one byte in so many is looked at; 0: all bytes are."""
        return PAGE_BYTES

    @classmethod
    def work_ns(cls, case: Case) -> int:
        """How long the consumer works on each page."""
        return 0

    @classmethod
    def fits(cls, case: Case) -> bool:
        policy = POLICIES.get(case.policy or "none")
        if policy.shared_memory_only and not _in_memory(case):
            return False
        return case.driver in policy.drivers and not (
            case.cache == "cold" and (case.region == "memfd" or policy.name == "mapped")
        )

    @classmethod
    def probe(cls, case: Case) -> Unavailable | None:
        return not_evictable(case.directory) if case.cache == "cold" else None

    @classmethod
    def fixture(cls, case: Case) -> FixtureSpec | None:
        assert case.file_bytes is not None
        return FixtureSpec(case.directory, case.file_bytes)

    @classmethod
    def operations(cls, case: Case) -> int:
        return len(cls.offsets(case))

    @classmethod
    def bytes_per_operation(cls, case: Case) -> int:
        return PAGE_BYTES if cls.step(case) == 0 else 0

    def __init__(self, context: Context) -> None:
        assert context.fixture is not None
        self.case = context.case
        self._group = context.group
        self._cpu = context.cpus[context.group.rank]
        self._helper_cpus = context.helper_cpus
        self.file: Fixture = context.fixture
        self.target = Target(
            self.file.path,
            self.file.size_bytes,
            self.offsets(self.case),
            self.access_bytes(self.case),
        )
        self.consumer = Consumer(self.step(self.case), self.work_ns(self.case))
        self._native = self.case.driver == "native"
        if self.case.cache == "cold":
            self.batches_together = COLD_TOGETHER
        self._expected = 0
        self._touched_pages = _pages_of(self.target)
        self._counted: Counter[str] = Counter()
        self._not_evicted = 0
        self._proof: str | None = None
        # Where a policy keeps a mapping, its first pass is its constructor's.
        if self.case.cache == "warm" and self._group.rank == 0:
            self._warm("pages_read_in_at_first")
        self._group.barrier()
        with with_helpers(self._cpu, self._helper_cpus):
            self._policy = POLICIES.get(self.policy_name())(self.target)

    def policy_name(self) -> str:
        """The policy of this rank."""
        return self.case.policy or "none"

    def validate(self) -> None:
        """Learn by pread what is to be read; where the file is warm, make a first pass as well."""
        fd = os.open(self.file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            buffer = bytearray(self.target.length)
            expected = Consumer(self.step(self.case))
            expected.take_file(fd, buffer, self.target.offsets)
        finally:
            os.close(fd)
        self._expected = expected.total
        if self.case.cache == "warm":
            self._checked_pass()

    def before_batch(self, iterations: int) -> None:
        self._policy.forget() if self.case.cache == "cold" else self._policy.end()
        self._group.barrier()
        if self._group.rank == 0:
            if self.case.cache == "cold":
                found = evict(self.file.fd, self.file.size_bytes)
                self._not_evicted += not found.proven
                resident, self._proof = found.after, found.proof
                self._counted["evicted_pages"] += found.before - found.after
            else:
                resident, self._proof = self._warm("pages_read_in_again")
            self._counted["resident_pages_before"] += resident
            self._resident = resident

    def _warm(self, counter: str) -> Residency:
        """What is in memory, once what the kernel has dropped was read in, and counted."""
        found = residency(self.file.fd, self.file.size_bytes)
        if found.pages * PAGE_BYTES < self.file.size_bytes:
            self._counted[counter] -= found.pages
            found = read_in(self.file.fd, self.file.size_bytes)
            self._counted[counter] += found.pages
        return found

    def batch(self, iterations: int) -> int:
        device = read_bytes()
        used = resource.getrusage(resource.RUSAGE_SELF)
        elapsed_ns = self._checked_pass()
        now = resource.getrusage(resource.RUSAGE_SELF)
        self._counted["process_minor_faults"] += now.ru_minflt - used.ru_minflt
        self._counted["process_major_faults"] += now.ru_majflt - used.ru_majflt
        self._counted["device_read_bytes"] += read_bytes() - device
        self._group.barrier()
        if self._group.rank == 0:
            after = residency(self.file.fd, self.file.size_bytes).pages
            self._counted["resident_pages_after"] += after
            if self.case.cache == "cold":
                unused = after - self._resident - self._touched_pages
                self._counted["pages_never_used"] += max(0, unused)
        self._policy.end()
        self._counted.update({f"policy_{k}": v for k, v in self._policy.stats().items()})
        return elapsed_ns

    def _checked_pass(self) -> int:
        self.consumer.reset()
        elapsed_ns = self.make_pass()
        if self.consumer.total != self._expected:
            raise ValidationFailed(
                f"{self.case.label()}: other bytes of {self.file.path} were read than by pread",
                "please report it, with the kernel's version and the file system",
            )
        return elapsed_ns

    def make_pass(self) -> int:
        """All accesses once, under the policy: the nanoseconds from before it opens the file."""
        policy, consumer = self._policy, self.consumer
        with with_helpers(self._cpu, self._helper_cpus):
            start = monotonic_ns()
            policy.begin()
            if self._native:
                policy.read_natively(consumer)
            else:
                policy.read(consumer)
            return monotonic_ns() - start

    def counters(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._counted.items()}

    def evidence(self) -> dict[str, Any]:
        mount = mount_of(self.case.directory) if self.case.directory else None
        return {
            "accesses": len(self.target.offsets),
            "access_bytes": self.target.length,
            "accessed_pages": self._touched_pages,
            "file_pages": -(-self.file.size_bytes // PAGE_BYTES),
            "helper_cpus": sorted(self._helper_cpus),
            "not_evicted_batches": self._not_evicted,
            "residency_by": self._proof,
            "filesystem": mount.filesystem if mount else self.case.region,
            "mount_options": mount and mount.options,
        }

    def flags(self) -> list[Flag]:
        return [Flag.NOT_EVICTED] if self._not_evicted else []

    def close(self) -> None:
        self._policy.forget()


def _in_memory(case: Case) -> bool:
    mount = mount_of(case.directory) if case.directory is not None else None
    return case.region == "memfd" or (mount is not None and mount.in_memory)


def _pages_of(target: Target) -> int:
    """How many different pages the accesses touch."""
    first = target.offsets // PAGE_BYTES
    last = (target.offsets + target.length - 1) // PAGE_BYTES
    return len(np.unique(np.concatenate([first + i for i in range(int((last - first).max()) + 1)])))
