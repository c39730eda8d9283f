"""What a batch's counters say: by scripted readings, and with a real CPU hog."""

import contextlib
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest
from needs import need

from shmbench.group.process import run_ranks
from shmbench.measure.counters import (
    Counts,
    CpuTimes,
    Delta,
    RankCounters,
    cpu_losses,
    disturbed,
    totals,
    wake_ns,
)
from shmbench.measure.flags import Flag
from shmbench.native.process import ThreadUsage, pin_to_cpu, set_parent_death_signal

MS = 1_000_000
INFINITE = float("inf")


def delta(
    cpu=0, *, begin=0, elapsed=4 * MS, own=0, delay=0, voluntary=0, involuntary=0, moved_to=None
):
    return Delta(
        begin,
        begin + elapsed,
        cpu,
        cpu if moved_to is None else moved_to,
        delay,
        ThreadUsage(voluntary, involuntary, 0, 0, own),
    )


def flags_of(*deltas, least_wake_ns=INFINITE):
    return disturbed(deltas, [least_wake_ns] * len(deltas))


def test_two_ranks_that_never_waited_are_undisturbed():
    assert flags_of(delta(0), delta(1)) == []


def test_one_rank_that_lost_its_cpu_disturbs_the_batch():
    assert flags_of(delta(0), delta(1, delay=1 * MS, involuntary=1)) == [Flag.PREEMPTED]


def test_a_switch_that_took_next_to_nothing_is_let_pass():
    assert flags_of(delta(0), delta(1, delay=50_000, involuntary=1)) == []


def test_a_blocking_rank_that_waits_after_waking_is_disturbed_without_involuntary_switches():
    blocking = delta(1, delay=2 * MS, voluntary=100)
    assert flags_of(delta(0), blocking, least_wake_ns=300) == [Flag.PREEMPTED]


def test_the_usual_cost_of_a_wake_up_is_no_disturbance():
    blocking = delta(1, delay=150_000, voluntary=100)
    assert wake_ns(blocking) == 1500
    assert flags_of(delta(0), blocking, least_wake_ns=1500) == []


def test_a_hog_from_the_first_batch_on_is_not_taken_for_the_usual_cost_of_a_wake_up():
    blocking = delta(1, delay=2 * MS, voluntary=100)
    assert flags_of(delta(0), blocking, least_wake_ns=wake_ns(blocking)) == [Flag.PREEMPTED]


def test_a_few_wake_ups_say_nothing_about_their_usual_cost():
    assert wake_ns(delta(delay=100, voluntary=3)) == INFINITE


def test_ranks_on_one_cpu_may_wait_for_each_other():
    first = delta(0, own=2 * MS, delay=2 * MS, voluntary=50, involuntary=50)
    second = delta(0, own=2 * MS, delay=2 * MS, voluntary=50, involuntary=50)
    assert flags_of(first, second) == []


def test_what_ranks_on_one_cpu_lost_to_others_disturbs_the_batch():
    first = delta(0, own=1 * MS, delay=3 * MS, voluntary=50)
    second = delta(0, own=1 * MS, delay=3 * MS, voluntary=50)
    assert flags_of(first, second) == [Flag.PREEMPTED]


def test_four_blocking_ranks_on_two_cpus_may_leave_them_idle():
    ranks = [delta(cpu, own=1 * MS, delay=1 * MS, voluntary=50) for cpu in (0, 0, 1, 1)]
    assert flags_of(*ranks) == []


def test_four_blocking_ranks_on_two_cpus_are_disturbed_when_one_waits_longer_than_its_peer_ran():
    ranks = [delta(cpu, own=1 * MS, delay=1 * MS, voluntary=50) for cpu in (0, 0, 1)]
    late = delta(1, own=1 * MS, delay=3 * MS, voluntary=50)
    assert flags_of(*ranks, late) == [Flag.PREEMPTED]


def test_four_spinning_ranks_on_two_cpus_leave_no_time_to_others():
    quiet = [delta(cpu, own=2 * MS, delay=2 * MS, involuntary=900) for cpu in (0, 0, 1, 1)]
    assert flags_of(*quiet) == []
    robbed = [delta(cpu, own=1 * MS, delay=3 * MS, involuntary=9) for cpu in (1, 1)]
    assert flags_of(*quiet[:2], *robbed) == [Flag.PREEMPTED]


def test_a_rank_that_changed_its_cpu_disturbs_the_batch():
    assert flags_of(delta(0), delta(1, moved_to=2)) == [Flag.MOVED]


def test_without_run_delay_any_involuntary_switch_disturbs_the_batch():
    assert flags_of(delta(0, delay=None), delta(1, delay=None)) == []
    assert flags_of(delta(0, delay=None), delta(1, delay=None, involuntary=1)) == [Flag.PREEMPTED]
    assert flags_of(delta(0, delay=None), delta(0, delay=None, own=4 * MS)) == []


def test_totals_are_summed_over_the_ranks():
    summed = totals([delta(0, delay=5, voluntary=1), delta(1, delay=None, voluntary=2)])
    assert summed == {
        "voluntary_switches": 3,
        "involuntary_switches": 0,
        "minor_faults": 0,
        "major_faults": 0,
        "run_delay_ns": 5,
    }


def use(cpu, *, elapsed=1000 * MS, busy=0, steal=0, own=0):
    return CpuTimes(cpu, elapsed, busy, steal, own)


def test_cpus_that_only_their_ranks_used_lost_nothing():
    uses = [use(0, busy=1010 * MS, own=1000 * MS), use(1, busy=990 * MS, own=1000 * MS)]
    assert cpu_losses(uses) == ({"foreign_cpu_ns": 10 * MS, "steal_ns": 0}, [])


def test_ranks_on_one_cpu_are_not_foreign_to_each_other():
    uses = [use(0, busy=1000 * MS, own=500 * MS)] * 2
    assert cpu_losses(uses) == ({"foreign_cpu_ns": 0, "steal_ns": 0}, [])


def test_a_cpu_that_others_used_is_flagged():
    losses, flags = cpu_losses([use(0), use(1, busy=800 * MS, own=500 * MS)])
    assert losses["foreign_cpu_ns"] == 300 * MS
    assert flags == [Flag.FOREIGN_CPU]


def test_time_that_the_hypervisor_took_is_flagged():
    losses, flags = cpu_losses([use(0, steal=50 * MS), use(1, steal=50 * MS)])
    assert losses["steal_ns"] == 100 * MS
    assert flags == [Flag.STEAL]


def test_a_tick_or_two_in_a_short_group_are_let_pass():
    assert cpu_losses([use(0, elapsed=60 * MS, busy=80 * MS, own=55 * MS, steal=10 * MS)])[1] == []


def test_a_rank_that_changed_its_cpu_has_no_cpu_times():
    assert use(1, busy=900).since(use(0, busy=5)) == CpuTimes(1, 0, 0, 0, 0)


@pytest.fixture
def scripted(tmp_path):
    """A schedstat and a stat file to write to, and counters that read them."""
    schedstat, stat = tmp_path / "schedstat", tmp_path / "stat"
    schedstat.write_text("0 0 1\n")
    lines = [f"cpu{cpu} 3 1 2 90 5 1 1 7 0 0" for cpu in range(os.cpu_count() or 1)]
    stat.write_text("\n".join(["cpu 99 99 99 99 99 99 99 99 99 99", *lines, "intr 1 2 3"]))
    usage = ThreadUsage(10, 20, 30, 40, 50)
    with RankCounters(str(schedstat), str(stat), lambda: usage, lambda: 1234) as counters:
        yield counters, schedstat


def test_run_delay_is_read_from_schedstat(scripted):
    counters, schedstat = scripted
    before = counters.read()
    schedstat.write_text("900 777 4\n")
    after = counters.read()
    assert (before.run_delay_ns, after.run_delay_ns) == (0, 777)
    assert Delta.between(before, after).run_delay_ns == 777
    assert (after.at_ns, after.usage) == (1234, ThreadUsage(10, 20, 30, 40, 50))


def test_a_kernel_that_counts_no_run_delay_has_none(scripted):
    counters, schedstat = scripted
    schedstat.write_text("0 0 0\n")
    assert counters.read().run_delay_ns is None


def test_a_missing_schedstat_is_no_error(tmp_path):
    with RankCounters(schedstat=str(tmp_path / "missing")) as counters:
        assert counters.read().run_delay_ns is None


def test_busy_and_steal_are_read_from_the_line_of_the_threads_cpu(scripted):
    counters, _ = scripted
    times = counters.read_cpu()
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert (times.busy_ns, times.steal_ns) == (8 * tick_ns, 7 * tick_ns)
    assert (times.at_ns, times.own_ns) == (1234, 50)


def test_the_real_counters_only_grow():
    with RankCounters() as counters:
        before, before_cpu = counters.read(), counters.read_cpu()
        time.sleep(0.001)
        after, after_cpu = counters.read(), counters.read_cpu()
    used = Delta.between(before, after)
    assert used.usage.voluntary_switches >= 1
    assert used.usage.cpu_ns > 0
    assert used.end_ns - used.begin_ns > 1_000_000
    assert isinstance(after, Counts)
    assert after_cpu.since(before_cpu).own_ns >= 0


def test_closing_the_counters_gives_their_descriptors_back():
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        with RankCounters():
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@contextlib.contextmanager
def hog(cpu):
    """A process that computes on this CPU."""
    pid = os.fork()
    if pid == 0:
        set_parent_death_signal(signal.SIGKILL)
        pin_to_cpu(cpu)
        while True:
            pass
    try:
        time.sleep(0.02)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def two_cpus():
    cpus = sorted(os.sched_getaffinity(0))
    need(len(cpus) >= 2, "one CPU only", "run on a machine with two CPUs or more")
    with RankCounters() as counters:
        delay_ns = counters.read().run_delay_ns
    need(delay_ns is not None, "no run delay", "use a kernel with CONFIG_SCHED_INFO")
    return cpus[:2]


def spin(group, pipes, batch_s):
    end = time.monotonic() + batch_s
    while time.monotonic() < end:
        pass


def ping_pong(group, pipes, batch_s):
    (first_read, first_write), (second_read, second_write) = pipes
    end = time.monotonic() + batch_s
    over = False
    while not over:
        if group.rank == 0:
            over = time.monotonic() > end
            os.write(first_write, b"." if over else b"x")
            os.read(second_read, 1)
        else:
            over = os.read(first_read, 1) == b"."
            os.write(second_write, b"x")


def run_batches(body, cpus, batch_s, batches=12):
    """Two ranks run batches on these CPUs.

    Returns:
        The share of batches without any flag, and the share of the CPUs' time that others used.
    """
    pipes = [os.pipe(), os.pipe()]

    def measure(group):
        pin_to_cpu(cpus[group.rank])
        deltas = []
        with RankCounters() as counters:
            start = counters.read_cpu()
            for _ in range(batches):
                group.barrier()
                before = counters.read()
                body(group, pipes, batch_s)
                deltas.append(Delta.between(before, counters.read()))
            return msgspec.msgpack.encode((deltas, counters.read_cpu().since(start)))

    try:
        answers = run_ranks(2, measure, timeout_s=20)
    finally:
        for descriptor in pipes[0] + pipes[1]:
            os.close(descriptor)
    decoded = [msgspec.msgpack.decode(a, type=tuple[list[Delta], CpuTimes]) for a in answers]
    least = [min(map(wake_ns, deltas)) for deltas, _ in decoded]
    by_batch = zip(*(deltas for deltas, _ in decoded), strict=True)
    undisturbed = sum(not disturbed(batch, least) for batch in by_batch)
    uses = [cpu_use for _, cpu_use in decoded]
    return undisturbed / batches, cpu_losses(uses)[0]["foreign_cpu_ns"] / uses[0].at_ns


CASES = [
    pytest.param(spin, (0, 1), id="spinning on two CPUs"),
    pytest.param(ping_pong, (0, 1), id="blocking on two CPUs"),
    pytest.param(ping_pong, (1, 1), id="blocking on one CPU"),
]


@pytest.mark.parametrize(("body", "placement"), CASES)
def test_a_hog_on_one_ranks_cpu_is_seen_in_nearly_every_batch(body, placement):
    cpus = two_cpus()
    with hog(cpus[1]):
        # 30 ms are long against the scheduler's slices, so the hog runs in every batch
        undisturbed, _ = run_batches(body, [cpus[index] for index in placement], batch_s=0.03)
    assert undisturbed <= 0.1


@pytest.mark.parametrize(("body", "placement"), CASES)
def test_most_batches_are_undisturbed_on_a_quiet_machine(body, placement):
    cpus = two_cpus()
    tries = []
    for _ in range(6):
        tries.append(run_batches(body, [cpus[index] for index in placement], batch_s=0.005))
        if tries[-1][0] >= 0.6:
            return
    assert min(foreign for _, foreign in tries) > 0.05, tries
    pytest.skip("other programs use this machine's CPUs; run the test when it is quiet")
