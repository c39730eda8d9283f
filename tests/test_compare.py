from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sample_results import sample_file, sample_machine, sample_result

from shmbench.compare import Comparison, compare, student_t
from shmbench.errors import UsageError
from shmbench.results import SCHEMA, Failure, Limit, Result, ResultFile


def file_of(*results: Result, **facts: str) -> ResultFile:
    return ResultFile(
        schema=SCHEMA,
        machine=sample_machine() | facts,
        created="2026-03-01T09:30:00+00:00",
        plan={},
        results=list(results),
    )


def result_of(samples: Any, *, limit: float | None = None, **changes: Any) -> Result:
    median = float(np.median(samples))
    return sample_result(
        samples=[float(sample) for sample in samples],
        median=median,
        limit=limit and Limit(name="core_to_core", value=limit, ratio=median / limit),
        **changes,
    )


def around(centre: float, groups: int = 10, noise: float = 0.01, seed: int = 0) -> Any:
    return centre * np.exp(np.random.default_rng(seed).normal(0, noise, groups))


def directions(comparison: Comparison) -> list[str]:
    return [row.direction for row in comparison.rows]


def verdict(base: Result, new: Result, **options: Any) -> str:
    (row,) = compare(file_of(base), file_of(new), **options).rows
    return row.direction


class TestVerdicts:
    def test_a_run_compared_with_itself_has_not_changed(self) -> None:
        run = sample_file()
        comparison = compare(run, run)
        assert set(directions(comparison)) == {"no change", "failed", "undecided"}
        assert comparison.regressions == []
        assert comparison.drift == 1
        undecided = [row for row in comparison.rows if row.direction == "undecided"]
        assert all("untrusted" in row.reason for row in undecided)

    def test_slower_is_worse_and_faster_is_better(self) -> None:
        base, slow = result_of(around(1)), result_of(around(1.2, seed=1))
        assert verdict(base, slow) == "worse"
        assert verdict(slow, base) == "better"

    def test_a_row_carries_the_ratio_its_interval_and_the_effect(self) -> None:
        (row,) = compare(
            file_of(result_of(around(1))), file_of(result_of(around(1.2, seed=1)))
        ).rows
        assert row.ratio == pytest.approx(1.2, rel=0.02)
        assert row.interval is not None
        assert 1 < row.interval[0] < row.ratio < row.interval[1]
        assert row.effect_size == 1

    def test_the_answer_is_the_same_each_time(self) -> None:
        base, new = sample_file(seed=1), sample_file(seed=2)
        assert compare(base, new) == compare(base, new)

    def test_a_change_below_the_threshold_is_no_change_however_certain(self) -> None:
        base, new = (
            result_of(around(1, noise=1e-4)),
            result_of(around(1.03, noise=1e-4, seed=1)),
        )
        assert verdict(base, new) == "no change"
        assert verdict(base, new, threshold=0.02) == "worse"

    def test_a_change_within_the_noise_is_undecided(self) -> None:
        base, new = result_of(around(1, 5, 0.3)), result_of(around(1.2, 5, 0.3, seed=1))
        assert verdict(base, new) == "undecided"

    def test_one_group_is_said_to_be_too_few(self) -> None:
        (row,) = compare(file_of(result_of([1.0])), file_of(result_of([2.0]))).rows
        assert row.interval is None
        assert "at least 2 process groups" in row.reason

    def test_an_untrusted_figure_is_never_a_regression(self) -> None:
        good, bad = result_of(around(1)), result_of(around(3, seed=1), flags=["untrusted"])
        assert verdict(good, bad) == "undecided"
        assert verdict(bad, good) == "undecided"

    def test_more_cases_want_more_certainty(self) -> None:
        base, new = result_of(around(1)), result_of(around(1.1, seed=1))
        others = [result_of(around(1), message_bytes=size) for size in range(100, 400)]
        (alone,) = compare(file_of(base), file_of(new)).rows
        among = compare(file_of(base, *others), file_of(new, *others)).rows[0]
        assert alone.interval is not None
        assert among.interval is not None
        assert among.interval[0] < alone.interval[0]
        assert among.interval[1] > alone.interval[1]


class TestDrift:
    def test_slower_together_with_its_limit_is_not_worse(self) -> None:
        base = result_of(around(1), limit=0.5)
        new = result_of(around(1.2, seed=1), limit=0.6)
        (row,) = compare(file_of(base), file_of(new)).rows
        assert row.direction == "undecided"
        assert "drift of 1.20x" in row.reason

    def test_as_fast_as_before_on_a_faster_machine_is_not_worse(self) -> None:
        base = result_of(around(1), limit=0.6)
        assert verdict(base, result_of(around(1, seed=1), limit=0.5)) == "no change"

    def test_cpus_that_were_moved_apart_are_named_as_the_reason(self) -> None:
        base = result_of(around(5e-8), limit=4.5e-8, hand_over=4.5e-8)
        new = result_of(around(2e-7), limit=1.8e-7, hand_over=1.8e-7)
        (row,) = compare(file_of(base), file_of(new)).rows
        assert row.direction == "undecided"
        assert "4 times as far apart" in row.reason

    def test_another_limit_says_nothing_about_drift(self) -> None:
        base, new = result_of(around(1), limit=0.5), result_of(around(1.2, seed=1), limit=0.6)
        assert new.limit is not None
        new.limit.name = "memcpy (1 copy)"
        assert verdict(base, new) == "worse"

    def test_without_a_limit_all_other_cases_tell_the_drift(self) -> None:
        def run(factor: float, first: float, seed: int) -> ResultFile:
            return file_of(
                result_of(around(factor * first, seed=seed)),
                *(
                    result_of(around(factor, seed=seed + size), message_bytes=size)
                    for size in range(20, 40)
                ),
            )

        assert compare(run(1, 1, 0), run(1.2, 1, 100)).regressions == []
        slowed = compare(run(1, 1, 0), run(1.2, 1.3, 100))
        assert [row.case.message_bytes for row in slowed.regressions] == [8]
        assert slowed.drift == pytest.approx(1.2, rel=0.02)

    def test_half_of_the_cases_slower_by_half_is_not_taken_for_scatter(self) -> None:
        def run(factor: float, seed: int) -> ResultFile:
            return file_of(
                *(
                    result_of(
                        around(factor if size % 2 else 1, seed=seed + size),
                        message_bytes=size,
                        limit=0.5,
                    )
                    for size in range(20, 60)
                )
            )

        assert len(compare(run(1, 0), run(1.5, 100)).regressions) == 20


def beside(samples: Any, limits: Any, **changes: Any) -> Result:
    """A result with its limit beside each sample."""
    result = result_of(samples, limit=float(np.median(limits)), **changes)
    assert result.limit is not None
    result.limit.samples = [float(limit) for limit in limits]
    return result


class TestLimitBesideEachSample:
    """A machine that is four times slower for a while, in rounds that nobody can foretell."""

    def run(self, slowdown: float, seed: int, *, follows: bool = True) -> ResultFile:
        """A case that is 1.2 times its limit, or one that has nothing to do with it."""
        machine = np.random.default_rng(seed).choice([1.0, 4.0], 12, p=[0.7, 0.3])
        own = around(1.2 * slowdown, 12, seed=seed) * (machine if follows else 1)
        return file_of(beside(own, around(1, 12, seed=seed + 1000) * machine))

    def test_a_tenth_is_found_by_the_ratio_to_the_limit(self) -> None:
        found = [len(compare(self.run(1, n), self.run(1.1, n)).regressions) for n in range(100)]
        assert sum(found) == 100

    def test_a_tenth_is_found_where_the_limit_explains_nothing(self) -> None:
        found = [
            compare(self.run(1, n, follows=False), self.run(1.1, n, follows=False)).rows
            for n in range(100)
        ]
        assert sum(rows[0].direction == "worse" for rows in found) == 100

    @pytest.mark.parametrize("follows", [True, False])
    def test_no_alarm_where_only_the_machine_differs(self, follows: bool) -> None:
        for n in range(200):
            base, new = self.run(1, n, follows=follows), self.run(1, 5000 + n, follows=follows)
            assert compare(base, new).regressions == []

    def test_limits_of_another_length_than_the_samples_are_left_alone(self) -> None:
        base, new = beside(around(1), around(1, 3)), beside(around(1.2, seed=1), around(1, 3))
        assert verdict(base, new) == "worse"


class TestMatching:
    def test_cases_match_by_all_that_was_asked_for_and_not_by_host(self) -> None:
        base = file_of(result_of(around(1)), result_of(around(1), message_bytes=64))
        new = file_of(
            result_of(around(1), host="node-b"), result_of(around(1), driver="python", channel="x")
        )
        comparison = compare(base, new)
        assert directions(comparison) == ["no change", "only in new", "only in base"]
        assert [row.case.message_bytes for row in comparison.rows] == [8, 8, 64]
        assert comparison.regressions == []

    def test_a_case_measured_twice_is_compared_in_turn(self) -> None:
        twice = file_of(result_of(around(1)), result_of(around(2)))
        assert [row.ratio for row in compare(twice, twice).rows] == [1, 1]

    def test_a_case_that_fails_now_is_a_regression_with_its_error(self) -> None:
        broken = sample_result(
            samples=[],
            median=None,
            ci=None,
            error=Failure(type="PeerFailed", message="it died"),
        )
        comparison = compare(file_of(result_of(around(1))), file_of(broken))
        assert comparison.regressions == comparison.rows
        assert comparison.rows[0].reason == "new: it died"
        assert compare(file_of(broken), file_of(result_of(around(1)))).regressions == []
        assert compare(file_of(broken), file_of(broken)).regressions == []

    def test_figures_that_have_no_ratio_fail_rather_than_crash(self) -> None:
        nothing = sample_result(samples=[0.0], median=0.0)
        assert verdict(nothing, result_of(around(1))) == "failed"

    def test_runs_with_nothing_in_common_compare_to_nothing(self) -> None:
        assert compare(file_of(), file_of()).rows == []
        assert compare(file_of(), file_of()).drift is None


class TestMachines:
    def test_other_machines_are_refused_with_what_differs_and_the_option(self) -> None:
        base, new = file_of(result_of(around(1))), file_of(result_of(around(1)), cpu_model="Xeon")
        with pytest.raises(UsageError, match="Xeon") as caught:
            compare(base, new)
        assert "--other-machine" in (caught.value.remedy or "")
        assert compare(base, new, other_machine=True).causes == ["cpu_model: AMD EPYC 9B14 / Xeon"]

    def test_what_changed_on_the_same_machine_is_named_as_a_possible_cause(self) -> None:
        changed = file_of(result_of(around(1)), kernel="7.0")
        assert compare(file_of(result_of(around(1))), changed).causes == ["kernel: 6.18.0 / 7.0"]

    @pytest.mark.parametrize(
        "options",
        [{"confidence": 0}, {"confidence": 1}, {"threshold": -0.1}, {"threshold": math.nan}],
    )
    def test_senseless_options_are_refused(self, options: dict[str, float]) -> None:
        with pytest.raises(UsageError):
            compare(file_of(), file_of(), **options)


@pytest.mark.parametrize(
    ("confidence", "degrees", "quantile"),
    # From printed tables of the distribution.
    [
        (0.95, 1, 12.706),
        (0.95, 2, 4.303),
        (0.99, 3, 5.841),
        (0.95, 8, 2.306),
        (0.999, 10, 4.587),
        (0.95, 29, 2.045),
    ],
)
def test_the_quantiles_of_student_are_those_of_the_tables(
    confidence: float, degrees: int, quantile: float
) -> None:
    assert student_t(confidence, degrees) == pytest.approx(quantile, abs=6e-4)


class Simulation:
    """Pairs of runs on a machine whose truth is known.

    Each run drifts as a whole, with its limits; each case and each limit shifts from run to run;
    some groups are 1.5 times slower. Every third case has no limit.
    """

    def __init__(
        self,
        seed: int,
        *,
        cases: int,
        groups: int,
        noise: tuple[float, float],
        shift: float,
        drift: float = 0.0,
        outliers: float = 0.0,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.groups = groups
        self.noise = self.rng.uniform(*noise, cases)
        self.shift = shift
        self.drift = drift
        self.outliers = outliers

    def run(self, slowdown: float = 1.0) -> ResultFile:
        """A run in which the first case is slower than it should be."""
        drift = math.exp(self.rng.uniform(-self.drift, self.drift))
        limits = drift * np.exp(self.rng.normal(0, self.shift, 2))
        results = []
        for index, noise in enumerate(self.noise):
            centre = drift * math.exp(self.rng.normal(0, self.shift))
            samples = centre * np.exp(self.rng.normal(0, noise, self.groups))
            samples *= np.where(self.rng.random(self.groups) < self.outliers, 1.5, 1.0)
            results.append(
                result_of(
                    samples * (1.0 if index else slowdown),
                    message_bytes=index,
                    limit=float(limits[index % 3]) if index % 3 < 2 else None,
                )
            )
        return file_of(*results)

    def alarms(self, repeats: int) -> int:
        """How many comparisons of two runs of the same thing show a regression."""
        return sum(bool(compare(self.run(), self.run()).regressions) for _ in range(repeats))

    def finds(self, repeats: int, slowdown: float) -> int:
        """How many comparisons show the first case, and only that."""
        return sum(
            [row.case.message_bytes for row in compare(self.run(), self.run(slowdown)).regressions]
            == [0]
            for _ in range(repeats)
        )


class TestTheRuleInSimulation:
    @pytest.mark.parametrize(
        ("groups", "noise", "repeats"),
        [
            pytest.param(5, (0.02, 0.04), 100, id="quick run"),
            pytest.param(3, (0.02, 0.04), 100, id="three groups", marks=pytest.mark.slow),
            pytest.param(12, (0.002, 0.01), 100, id="quiet cases", marks=pytest.mark.slow),
        ],
    )
    def test_two_runs_of_the_same_show_no_regression(
        self, groups: int, noise: tuple[float, float], repeats: int
    ) -> None:
        simulation = Simulation(
            1, cases=90, groups=groups, noise=noise, shift=0.02, drift=0.08, outliers=0.05
        )
        assert simulation.alarms(repeats) == 0

    @pytest.mark.parametrize("groups", [2, 5, 20])
    def test_a_single_case_raises_no_more_false_alarms_than_its_confidence(
        self, groups: int
    ) -> None:
        simulation = Simulation(
            2, cases=1, groups=groups, noise=(0.03, 0.03), shift=0.02, drift=0.08, outliers=0.05
        )
        assert simulation.alarms(400) <= 400 * 0.05

    @pytest.mark.parametrize(
        ("cases", "repeats"), [(1, 300), pytest.param(90, 30, marks=pytest.mark.slow)]
    )
    @pytest.mark.parametrize("groups", [10, 20])
    def test_a_case_that_is_a_tenth_slower_is_found(
        self, cases: int, repeats: int, groups: int
    ) -> None:
        simulation = Simulation(3, cases=cases, groups=groups, noise=(0.01, 0.01), shift=0.003)
        assert simulation.finds(repeats, slowdown=1.1) > 0.95 * repeats

    def test_a_case_that_takes_twice_as_long_is_found_in_a_noisy_quick_run(self) -> None:
        simulation = Simulation(4, cases=90, groups=5, noise=(0.02, 0.04), shift=0.02, drift=0.08)
        assert simulation.finds(30, slowdown=2.0) > 0.95 * 30
