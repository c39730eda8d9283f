"""The runner, against scripted trials and a fake clock: order, ends, failures, headlines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shmbench.cases import Case
from shmbench.limits import limit_of
from shmbench.measure.flags import Flag
from shmbench.measure.placement import Cpu, Topology
from shmbench.measure.sampling import SamplingOptions
from shmbench.measure.stopping import StoppingRule
from shmbench.native.histogram import Histogram
from shmbench.results import Failure, Result
from shmbench.runner import Effort, Run
from shmbench.trial import Trial, TrialReport

TWO_CPUS = Topology(
    cpus=tuple(Cpu(number=n, core=n, package=0, l2=n, l3=0, node=0) for n in range(2)),
    online=(0, 1),
)


def ping_pong(channel: str = "pipe", size: int = 8, placement: str = "l3") -> Case:
    return Case(
        workload="ping_pong",
        driver="native",
        channel=channel,
        pages="prefault",
        message_bytes=size,
        ranks=2,
        placement=placement,
    )


class Script:
    """Runs no process: each trial takes a second and gives what the script says."""

    def __init__(self, answer: Callable[[Case, int], TrialReport]) -> None:
        self.answer = answer
        self.order: list[Case] = []
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def run(self, trial: Trial) -> TrialReport:
        self.order.append(trial.case)
        self.now_s += 1.0
        return self.answer(trial.case, self.order.count(trial.case))


def measure(
    cases: list[Case], answer: Callable[[Case, int], TrialReport], **rule: float
) -> tuple[list[Result], Script]:
    script = Script(answer)
    budget_s = rule.pop("budget_s", 1000.0)
    effort = Effort(budget_s=budget_s, rule=StoppingRule(**rule))  # type: ignore[arg-type]
    run = Run(cases, TWO_CPUS, effort, clock=script.clock)
    run.measure(script)
    return run.results(), script


def steady(case: Case, turn: int) -> TrialReport:
    return TrialReport(value=1e-6 * (1 + 0.001 * (turn % 3)))


def noisy(case: Case, turn: int) -> TrialReport:
    return TrialReport(value=1e-6 * (1 + turn % 5))


def test_cases_take_turns() -> None:
    one, two = ping_pong("pipe"), ping_pong("tcp")
    _, script = measure([one, two], steady, min_groups=4)
    assert script.order == [one, two] * 4


def test_a_case_whose_interval_is_narrow_is_done_and_the_others_go_on() -> None:
    calm, wild = ping_pong("pipe"), ping_pong("tcp")
    results, script = measure(
        [calm, wild], lambda case, n: (steady if case == calm else noisy)(case, n), max_groups=12
    )
    assert script.order.count(calm) == 6
    assert script.order.count(wild) == 12
    assert "wide" not in results[0].flags
    assert "wide" in results[1].flags


def test_the_budget_ends_the_run_but_every_case_has_been_measured_once() -> None:
    cases = [ping_pong(size=size) for size in (8, 64, 512)]
    results, script = measure(cases, noisy, budget_s=2.0)
    assert script.order == cases
    assert all(result.groups == 1 and "budget" in result.flags for result in results)


def test_a_failure_ends_its_case_and_no_other() -> None:
    bad, good = ping_pong("pipe"), ping_pong("tcp")

    def answer(case: Case, turn: int) -> TrialReport:
        if case == bad and turn == 2:
            return TrialReport(failure=Failure(type="PeerFailed", message="rank 1 was killed"))
        return steady(case, turn)

    results, _ = measure([bad, good], answer)
    assert results[0].error is not None
    assert results[0].error.message == "rank 1 was killed"
    assert len(results[0].samples) == 1
    assert results[1].error is None
    assert results[1].groups == 6


def test_disturbed_groups_are_tried_again_and_left_out() -> None:
    def answer(case: Case, turn: int) -> TrialReport:
        if turn % 3 == 0:
            return TrialReport(value=9e-6, flags=[str(Flag.UNTRUSTED), str(Flag.PREEMPTED)])
        return TrialReport(value=1e-6)

    (result,), _ = measure([ping_pong()], answer, min_groups=5)
    assert result.samples == [1e-6] * 5
    assert "untrusted" not in result.flags
    assert "preempted" in result.flags


def test_a_case_that_is_always_disturbed_ends_and_says_that_it_can_not_be_trusted() -> None:
    (result,), script = measure(
        [ping_pong()],
        lambda case, turn: TrialReport(value=9e-6, flags=[str(Flag.UNTRUSTED)]),
        max_groups=6,
    )
    assert len(script.order) == 12
    assert result.median == 9e-6
    assert "untrusted" in result.flags


def test_groups_at_another_distance_than_most_of_the_run_are_left_out_and_tried_again() -> None:
    def answer(case: Case, turn: int) -> TrialReport:
        near, far = [50e-9, 52e-9], [50e-9, 210e-9]  # it moved away during the second group
        return TrialReport(value=9e-6 if turn == 2 else 1e-6, hand_overs=far if turn == 2 else near)

    (result,), script = measure([ping_pong()], answer, min_groups=5)
    assert result.samples == [1e-6] * 5
    assert len(script.order) == 6
    assert "displaced" in result.flags
    assert "untrusted" not in result.flags
    assert result.counters["displaced_groups"] == 1
    assert result.hand_over == pytest.approx(51e-9)


def test_which_distance_is_usual_is_learnt_from_all_cases_on_the_same_cpus() -> None:
    first, second = ping_pong("pipe"), ping_pong("tcp")

    def answer(case: Case, turn: int) -> TrialReport:
        far = case == first and turn == 1
        return TrialReport(value=1e-6, hand_overs=[2e-7] * 2 if far else [5e-8] * 2)

    results, _ = measure([first, second], answer, min_groups=3, max_groups=3)
    assert [result.counters["displaced_groups"] for result in results] == [1, 0]


def test_rounds_are_spread_over_time_but_not_beyond_the_budget() -> None:
    script = Script(steady)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        script.now_s += seconds

    effort = Effort(budget_s=7.0, round_s=3.0, rule=StoppingRule(min_groups=5))
    run = Run([ping_pong()], TWO_CPUS, effort, clock=script.clock, sleep=sleep)
    run.measure(script)
    assert slept == [2.0, 2.0, 0.0]
    assert run.results()[0].groups == 3


def test_a_result_stands_beside_its_limit_of_the_same_run() -> None:
    case = ping_pong("pipe")
    limit = limit_of(case)
    assert limit is not None
    results, _ = measure(
        [case, limit.case],
        lambda which, turn: TrialReport(value=3e-6 if which == case else 1.5e-6),
    )
    assert results[0].limit is not None
    assert (results[0].limit.name, results[0].limit.value) == ("core_to_core", 1.5e-6)
    assert results[0].limit.ratio == pytest.approx(2.0)


def test_the_ratio_to_the_limit_is_taken_round_by_round() -> None:
    """A machine that is four times slower in some rounds makes both slower, and no ratio wrong."""
    case = ping_pong("pipe")
    limit = limit_of(case)
    assert limit is not None

    def answer(which: Case, turn: int) -> TrialReport:
        slow = 4 if turn in (2, 3) else 1
        return TrialReport(value=slow * (1.2e-6 if which == case else 1e-6))

    results, _ = measure([limit.case, case], answer, max_groups=5)
    assert results[1].limit is not None
    assert results[1].limit.samples == pytest.approx([1e-6, 4e-6, 4e-6, 1e-6, 1e-6])
    assert results[1].limit.ratio == pytest.approx(1.2)
    assert results[1].limit.ci == pytest.approx([1.2, 1.2])
    assert "wide" in results[1].flags
    assert "wide" in results[1].limit.flags


def test_a_limit_is_measured_as_long_as_a_case_stands_beside_it() -> None:
    case = ping_pong("pipe")
    limit = limit_of(case)
    assert limit is not None
    results, script = measure(
        [limit.case, case],
        lambda which, turn: (noisy if which == case else steady)(which, turn),
        max_groups=9,
    )
    assert script.order.count(limit.case) == script.order.count(case) == 9
    assert results[1].limit is not None
    assert len(results[1].limit.samples) == 9


def test_where_the_limit_has_no_group_in_a_round_the_nearest_one_stands_in() -> None:
    case = ping_pong("pipe")
    limit = limit_of(case)
    assert limit is not None

    def answer(which: Case, turn: int) -> TrialReport:
        disturbed = [str(Flag.UNTRUSTED)] if which == limit.case and turn == 1 else []
        return TrialReport(value=(2e-6 if which == case else turn * 1e-6), flags=disturbed)

    results, _ = measure([limit.case, case], answer, max_groups=5)
    assert results[1].limit is not None
    assert results[1].limit.samples == pytest.approx([2e-6, 2e-6, 3e-6, 4e-6, 5e-6])
    assert "limit_untrusted" not in results[1].flags


def test_a_limit_that_can_not_be_trusted_is_said_beside_the_figure() -> None:
    case = ping_pong("pipe")
    limit = limit_of(case)
    assert limit is not None

    def answer(which: Case, turn: int) -> TrialReport:
        return TrialReport(value=1e-6, flags=[str(Flag.UNTRUSTED)] if which == limit.case else [])

    results, _ = measure([limit.case, case], answer, max_groups=5)
    assert "untrusted" in results[0].flags
    assert "limit_untrusted" in results[1].flags


def test_percentiles_are_of_the_groups_that_count() -> None:
    def answer(case: Case, turn: int) -> TrialReport:
        histogram = Histogram()
        for _ in range(100):
            histogram.record(1000 if turn != 2 else 90_000)
        flags = [str(Flag.UNTRUSTED)] if turn == 2 else []
        return TrialReport(value=1e-6, flags=flags, histogram=histogram.to_bytes())

    (result,), _ = measure([ping_pong()], answer)
    assert result.percentiles is not None
    assert result.percentiles["max"] < 1.1e-6


def test_a_placement_that_the_machine_lacks_fails_its_case_alone() -> None:
    results, script = measure([ping_pong(placement="cross_node"), ping_pong()], steady)
    assert results[0].error is not None
    assert results[0].error.type == "Unavailable"
    assert results[0].error.remedy is not None
    assert set(script.order) == {ping_pong()}


def test_what_was_measured_until_an_interrupt_is_kept() -> None:
    script = Script(steady)

    def answer(case: Case, turn: int) -> TrialReport:
        if len(script.order) == 5:
            raise KeyboardInterrupt
        return steady(case, turn)

    script.answer = answer
    cases = [ping_pong("pipe"), ping_pong("tcp")]
    run = Run(cases, TWO_CPUS, Effort(budget_s=100.0), clock=script.clock)
    with pytest.raises(KeyboardInterrupt):
        run.measure(script)
    assert [len(result.samples) for result in run.results()] == [2, 2]


def test_further_figures_are_kept_one_for_each_group_that_counts() -> None:
    def answer(case: Case, count: int) -> TrialReport:
        flags = [str(Flag.UNTRUSTED)] if count == 2 else []
        return TrialReport(value=1e-6, flags=flags, figures={"hidden_share": count / 10})

    (result,), _ = measure([ping_pong(placement="same_cpu")], answer, min_groups=3, max_groups=3)
    assert result.figures == {"hidden_share": [0.1, 0.3, 0.4]}
    assert len(result.samples) == 3


def test_a_case_with_a_sampling_of_its_own_is_measured_by_it() -> None:
    seen: dict[int | None, int | None] = {}

    class Recording(Script):
        def run(self, trial: Trial) -> TrialReport:
            seen[trial.case.message_bytes] = trial.sampling.iterations
            return super().run(trial)

    small, large = ping_pong(placement="same_cpu"), ping_pong(size=64, placement="same_cpu")
    script = Recording(lambda case, count: TrialReport(value=1e-6))
    own = {small: SamplingOptions(iterations=7)}
    effort = Effort(budget_s=9.0, rule=StoppingRule(1, 1), sampling_of=own)
    Run([small, large], TWO_CPUS, effort, clock=script.clock).measure(script)
    assert seen == {8: 7, 64: None}
