"""The sampling loop, against a fake clock and scripted disturbances; and once in real ranks."""

import os
import time
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmbench.group.process import run_ranks
from shmbench.measure.counters import Counts, CpuTimes
from shmbench.measure.flags import Flag
from shmbench.measure.sampling import Batch, Sample, SamplingOptions, group_median, sample
from shmbench.native.process import ThreadUsage, pin_to_cpu

MS = 1_000_000
SLICE_NS = 4 * MS  # what a hog takes at once
OPTIONS = SamplingOptions()


class Alone:
    """A group of one rank."""

    rank, size = 0, 1

    def barrier(self):
        pass

    def allgather(self, item):
        return [item]


@dataclass
class Script:
    """A subject, a clock and counters that follow a script: nothing here takes real time.

    Attributes:
        iteration_ns: what one iteration costs, by the batch's number.
        hog: the numbers of the batches in which a hog takes the CPU for a slice.
        busy_share: how much of the CPU others use, by /proc/stat.
    """

    iteration_ns: object = 1000.0
    hog: object = ()
    busy_share: float = 0.0
    cpu: int = 0
    now_ns: int = 0
    delay_ns: int = 0
    batches: list = field(default_factory=list)  # (iterations, elapsed_ns)
    prepared: list = field(default_factory=list)  # iterations
    fixed_iterations: object = None
    batches_together: int = 1

    def cost_ns(self, iterations):
        cost = self.iteration_ns
        number = len(self.batches)
        return int((cost(number, iterations) if callable(cost) else cost) * iterations)

    def before_batch(self, iterations):
        self.prepared.append(iterations)

    def batch(self, iterations):
        elapsed_ns = self.cost_ns(iterations)
        if len(self.batches) in self.hog:
            elapsed_ns += SLICE_NS
            self.delay_ns += SLICE_NS
        self.batches.append((iterations, elapsed_ns))
        self.now_ns += elapsed_ns
        return elapsed_ns

    def clock(self):
        return self.now_ns

    def read(self):
        return Counts(self.now_ns, self.cpu, self.delay_ns, ThreadUsage(0, 0, 0, 0, self.now_ns))

    def read_cpu(self):
        busy_ns = int(self.now_ns * (1 + self.busy_share))
        return CpuTimes(self.cpu, self.now_ns, busy_ns, 0, self.now_ns)

    def sample(self, options=OPTIONS):
        return sample(Alone(), self, options, clock=self.clock, counters=self)


class Always:
    """Every number."""

    def __contains__(self, number):
        return True


@given(st.floats(1.0, 3e8))
def test_a_batch_lasts_as_long_as_wanted_or_is_a_single_iteration(iteration_ns):
    script = Script(iteration_ns)
    taken = script.sample()
    for batch in taken.batches:
        assert batch.iterations == 1 or 3 * MS < batch.elapsed_ns < 8 * MS
        # One of 2.7 ms is nearer to the 4 ms that are wanted than two.
        assert batch.elapsed_ns > 2.6 * MS
    assert taken.seconds == pytest.approx(iteration_ns * 1e-9, rel=0.01)
    assert taken.flags == []
    assert len(script.batches) < 40


def test_a_given_number_of_iterations_is_one_batch_after_its_warm_up():
    script = Script(1000.0)
    options = SamplingOptions(batches=1, retries=0, iterations=1000, warmup_iterations=100)
    taken = script.sample(options)
    assert [iterations for iterations, _ in script.batches] == [100, 1000]
    assert [batch.iterations for batch in taken.batches] == [1000]
    assert taken.rank_seconds == [pytest.approx(1e-6)]


def test_a_subject_faster_than_the_clock_can_show_still_ends():
    taken = Script(0.0).sample()
    assert taken.seconds == 0
    assert taken.batches[0].iterations <= 10**9


@pytest.mark.parametrize("hog", [{0}, {0, 1}, {2, 3}, {0, 1, 2, 3}])
def test_batches_that_a_hog_made_long_do_not_end_the_calibration(hog):
    taken = Script(100.0, hog).sample()
    assert taken.batches[0].iterations > 30_000
    assert taken.seconds == pytest.approx(100e-9, rel=0.01)


def test_a_slow_first_touch_does_not_end_the_calibration():
    script = Script(lambda number, iterations: 5 * MS if number == 0 else 100)
    assert script.sample().batches[0].iterations > 30_000


def test_messages_that_are_taken_without_waiting_do_not_make_the_batches_too_long():
    def buffered(number, iterations):
        return (5 * iterations + 1000 * max(0, iterations - 4096)) / iterations

    for batch in Script(buffered).sample().batches:
        assert batch.elapsed_ns < 16 * MS


def test_warm_up_goes_on_until_three_batches_agree():
    script = Script(lambda number, iterations: 1000 * (1 + 4 * 0.6**number))
    taken = script.sample()
    assert Flag.UNSTABLE not in taken.flags
    assert len(taken.batches) == OPTIONS.batches
    assert taken.seconds == pytest.approx(1000e-9, rel=0.05)


def test_a_subject_that_never_settles_is_called_unstable():
    script = Script(lambda number, iterations: 1000 * (1 + number % 2))
    taken = script.sample()
    assert Flag.UNSTABLE in taken.flags
    assert len(script.batches) < 40


def test_disturbed_batches_are_left_out_replaced_and_counted():
    taken = Script(1000.0, hog=set(range(12, 40, 3))).sample()
    assert taken.seconds == pytest.approx(1e-6, rel=0.001)
    assert taken.flags == [Flag.PREEMPTED]
    disturbed = [batch for batch in taken.batches if batch.flags]
    assert len(taken.batches) - len(disturbed) == OPTIONS.batches
    assert taken.counters["disturbed_batches"] == len(disturbed) > 0
    assert taken.counters["batches"] == len(taken.batches)
    assert taken.counters["run_delay_ns"] == len(disturbed) * SLICE_NS


def test_a_hog_that_stays_ends_the_retries_and_the_figure_can_not_be_trusted():
    taken = Script(1000.0, hog=Always()).sample()
    assert len(taken.batches) == OPTIONS.batches + OPTIONS.retries
    assert {Flag.PREEMPTED, Flag.UNTRUSTED} <= set(taken.flags)


@pytest.mark.parametrize("iteration_ns", [0.7e8, 2e8, 5e9])
def test_slow_iterations_end_with_the_groups_time_after_three_batches_at_least(iteration_ns):
    script = Script(iteration_ns)
    taken = script.sample()
    assert [batch.iterations for batch in taken.batches] == [1] * len(taken.batches)
    assert len(taken.batches) >= 3
    assert script.now_ns < max(OPTIONS.group_s * 1e9, 7 * iteration_ns) + iteration_ns
    assert taken.flags == []


@pytest.mark.parametrize(("iteration_ns", "batches"), [(1000.0, 10), (70e6, 5), (5e9, 1)])
def test_with_fixed_iterations_every_batch_counts_from_the_first_on(iteration_ns, batches):
    script = Script(iteration_ns, fixed_iterations=3)
    taken = script.sample()
    assert script.batches == [(3, 3 * iteration_ns)] * len(taken.batches)
    assert len(taken.batches) <= batches
    assert script.now_ns < max(OPTIONS.group_s * 1e9, 3 * iteration_ns) + 3 * iteration_ns
    assert taken.seconds == pytest.approx(iteration_ns * 1e-9)


@pytest.mark.parametrize(("second_ns", "hog"), [(1000.0, ()), (1000.0, (2, 5)), (5e9, ())])
def test_batches_that_belong_together_are_measured_together(second_ns, hog):
    script = Script(
        lambda number, _: second_ns if number % 2 else second_ns / 2,
        hog=hog,
        fixed_iterations=1,
        batches_together=2,
    )
    taken = script.sample()
    assert len(taken.batches) % 2 == 0
    assert len(taken.batches) == 2 or second_ns < 5e9
    if not hog:
        assert taken.seconds == pytest.approx(0.75 * second_ns * 1e-9)


def test_each_batch_is_prepared_before_its_counters_are_read():
    script = Script(1000.0)
    taken = script.sample()
    assert script.prepared == [iterations for iterations, _ in script.batches]
    assert taken.batches


def test_what_others_used_over_the_whole_group_is_said_without_leaving_batches_out():
    taken = Script(1000.0, busy_share=0.9).sample()
    assert taken.flags == [Flag.FOREIGN_CPU]
    assert taken.counters["foreign_cpu_ns"] > 0
    assert taken.counters["disturbed_batches"] == 0


def batches_of(*elapsed_ms):
    """Batches of 1000 iterations; a negative time is a disturbed one's."""
    return [Batch(abs(ms) * MS, 1000, [Flag.PREEMPTED] if ms < 0 else [], {}) for ms in elapsed_ms]


def test_the_headline_is_the_median_over_undisturbed_batches():
    assert group_median(batches_of(4, 5, 6)) == (pytest.approx(5e-6), [])
    assert group_median(batches_of(4, -50, 5, 6, -70)) == (pytest.approx(5e-6), [Flag.PREEMPTED])


def test_exactly_half_undisturbed_is_enough():
    assert group_median(batches_of(4, -50)) == (pytest.approx(4e-6), [Flag.PREEMPTED])


@pytest.mark.parametrize("elapsed_ms", [(-8, -10, 2), (-8, -10, -6)])
def test_fewer_than_half_undisturbed_is_a_median_over_all_that_can_not_be_trusted(elapsed_ms):
    seconds, flags = group_median(batches_of(*elapsed_ms))
    assert seconds == pytest.approx(8e-6)
    assert flags == [Flag.PREEMPTED, Flag.UNTRUSTED]


def test_one_ranks_disturbance_flags_the_batch_in_every_rank_and_one_ranks_clock_counts():
    def body(group):
        hog = Always() if group.rank == 1 else ()
        script = Script(1000.0 * (1 + group.rank), hog, cpu=group.rank)
        return msgspec.json.encode(
            sample(group, script, OPTIONS, timing_rank=0, clock=script.clock, counters=script)
        )

    answers = run_ranks(2, body, timeout_s=20)
    assert answers[0] == answers[1]
    taken = msgspec.json.decode(answers[0], type=Sample)
    assert taken.seconds == pytest.approx(1e-6, rel=0.01)
    assert Flag.UNTRUSTED in taken.flags
    assert all(batch.flags == [Flag.PREEMPTED] for batch in taken.batches)


class Sleeper:
    """A subject in real time."""

    fixed_iterations = None
    batches_together = 1

    def before_batch(self, iterations):
        pass

    def batch(self, iterations):
        started = time.monotonic_ns()
        for _ in range(iterations):
            time.sleep(0.0002)
        return time.monotonic_ns() - started


def test_real_ranks_agree_on_a_sample_and_say_where_they_ran():
    cpus = sorted(os.sched_getaffinity(0))
    placement = [cpus[0], cpus[-1]]

    def body(group):
        pin_to_cpu(placement[group.rank])
        return msgspec.json.encode(sample(group, Sleeper(), OPTIONS))

    answers = run_ranks(2, body, timeout_s=20)
    assert answers[0] == answers[1]
    taken = msgspec.json.decode(answers[0], type=Sample)
    assert taken.cpus == placement
    assert taken.seconds > 0.0002
    assert taken.counters["voluntary_switches"] >= taken.counters["batches"]
