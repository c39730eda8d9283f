from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from sample_results import sample_machine, sample_result

from shmbench.cli import cli
from shmbench.errors import UsageError
from shmbench.results import SCHEMA, Failure, Limit, Result, ResultFile
from shmbench.turns import TURNS_MIN, compare_turns

TURNS = 9


def result_of(samples: Any, limit: float = 0.0, **changes: Any) -> Result:
    median = float(np.median(samples))
    return sample_result(
        samples=[float(sample) for sample in samples],
        median=median,
        limit=Limit(name="core_to_core", value=limit, ratio=median / limit) if limit else None,
        **changes,
    )


def run_of(*results: Result, turn: int = 0, side: int = 0, **facts: str) -> ResultFile:
    return ResultFile(
        schema=SCHEMA,
        machine=sample_machine() | facts,
        created=f"2026-03-01T09:{2 * turn + side:02}:00+00:00",
        plan={},
        results=list(results),
    )


class Machine:
    """One whose speed changes from run to run, by more than the groups of a run scatter."""

    def __init__(self, seed: int, *, cases: int = 1, between: float = 0.04) -> None:
        self.rng = np.random.default_rng(seed)
        self.cases = cases
        self.between = between

    def run(self, slowdown: float, turn: int, side: int) -> ResultFile:
        """Three groups a case; the first case is slower by that factor."""
        results = []
        for index in range(self.cases):
            centre = math.exp(self.rng.normal(0, self.between)) * (1 if index else slowdown)
            samples = centre * np.exp(self.rng.normal(0, 0.01, 3))
            results.append(result_of(samples, message_bytes=index + 1))
        return run_of(*results, turn=turn, side=side)

    def turns(self, slowdown: float, count: int = TURNS) -> tuple[list[ResultFile], ...]:
        return (
            [self.run(1.0, turn, 0) for turn in range(count)],
            [self.run(slowdown, turn, 1) for turn in range(count)],
        )


def steady(factor: float, *, moved: int = 0, flags: int = 0, **changes: Any) -> list[ResultFile]:
    """Runs whose case takes that factor; the first ones are `moved`, or have flags."""
    rng = np.random.default_rng(round(1000 * factor))
    return [
        run_of(
            result_of(
                factor * np.exp(rng.normal(0, 0.002, 3)) * (4 if turn < moved else 1),
                hand_over=2e-7 if turn < moved else 5e-8,
                flags=["untrusted"] if turn < flags else [],
                **changes,
            ),
            turn=turn,
            side=int(factor != 1),
        )
        for turn in range(TURNS)
    ]


class TestVerdicts:
    def test_slower_is_worse_and_faster_is_better(self) -> None:
        (row,) = compare_turns(steady(1), steady(1.1)).rows
        assert row.direction == "worse"
        assert row.ratio == pytest.approx(1.1, rel=0.01)
        assert row.interval is not None
        assert 1 < row.interval[0] < row.ratio < row.interval[1]
        assert row.effect_size == 1
        assert compare_turns(steady(1.1), steady(1)).rows[0].direction == "better"

    def test_a_change_below_the_threshold_is_none(self) -> None:
        assert compare_turns(steady(1), steady(1.03)).rows[0].direction == "no change"

    def test_slower_with_its_limit_is_not_worse(self) -> None:
        (row,) = compare_turns(steady(1, limit=0.5), steady(1.1, limit=0.55)).rows
        assert row.direction == "undecided"
        assert "drift of 1.10x" in row.reason

    def test_turns_whose_cpus_were_moved_apart_do_not_count(self) -> None:
        (row,) = compare_turns(steady(1), steady(1.1, moved=TURNS - TURNS_MIN)).rows
        assert row.direction == "worse"
        assert row.ratio == pytest.approx(1.1, rel=0.01)
        (row,) = compare_turns(steady(1), steady(1.1, moved=TURNS - TURNS_MIN + 1)).rows
        assert row.direction == "undecided"
        assert "4 times as far apart" in row.reason

    def test_turns_with_an_untrusted_figure_do_not_count(self) -> None:
        assert compare_turns(steady(1), steady(1.1, flags=2)).rows[0].direction == "worse"
        (row,) = compare_turns(steady(1), steady(1.1, flags=TURNS)).rows
        assert row.direction == "undecided"
        assert "untrusted" in row.reason

    def test_a_case_that_failed_in_one_turn_is_a_regression(self) -> None:
        new = steady(1.0)
        new[3].results[0].error = Failure(type="PeerFailed", message="it died")
        comparison = compare_turns(steady(1), new)
        assert comparison.regressions == comparison.rows
        assert comparison.rows[0].reason == f"in 1 of {TURNS} turns; new: it died"

    def test_a_case_that_failed_in_the_base_only_is_no_regression(self) -> None:
        base = steady(1)
        base[3].results[0].error = Failure(type="PeerFailed", message="it died")
        assert compare_turns(base, steady(1.1)).rows[0].direction == "worse"
        assert compare_turns(base, steady(1.0)).regressions == []
        for run in base:
            run.results[0].error = Failure(type="PeerFailed", message="it died")
        (row,) = compare_turns(base, steady(1.1)).rows
        assert row.direction == "undecided"
        assert "base: it died" in row.reason

    def test_cases_that_one_side_lacks_are_named(self) -> None:
        base, new = steady(1, message_bytes=8), steady(1, message_bytes=64)
        directions = [row.direction for row in compare_turns(base, new).rows]
        assert directions == ["only in new", "only in base"]

    def test_runs_that_did_not_take_turns_are_compared_and_it_is_said(self) -> None:
        base, new = steady(1), steady(1.0)
        assert compare_turns(base, new).causes == []
        for run in new:
            run.created = run.created.replace("T09", "T10")
        assert "not taken by turns" in compare_turns(base, new).causes[0]


class TestTheRuleInSimulation:
    @pytest.mark.parametrize(("cases", "repeats"), [(1, 400), (40, 20)])
    @pytest.mark.parametrize("turns", [TURNS_MIN, TURNS, 20])
    def test_the_same_is_called_slower_no_more_often_than_the_confidence_says(
        self, cases: int, repeats: int, turns: int
    ) -> None:
        machine = Machine(1, cases=cases)
        alarms = sum(
            bool(compare_turns(*machine.turns(1.0, turns)).regressions) for _ in range(repeats)
        )
        assert alarms <= max(1, repeats * 0.05)

    def test_a_tenth_is_found_where_runs_differ_by_4_percent(self) -> None:
        machine = Machine(2)
        found = sum(bool(compare_turns(*machine.turns(1.1, 16)).regressions) for _ in range(200))
        assert found > 0.9 * 200


class TestCommand:
    def write(self, directory: Path, runs: list[ResultFile]) -> Path:
        directory.mkdir()
        for number, run in enumerate(reversed(runs)):  # names are in no order of time
            (directory / f"{number}.json").write_bytes(msgspec.json.encode(run))
        return directory

    def test_two_directories_are_compared_turn_by_turn(self, tmp_path: Path) -> None:
        base = self.write(tmp_path / "base", steady(1))
        new = self.write(tmp_path / "new", steady(1.1))
        done = CliRunner().invoke(cli, ["compare", str(base), str(new)])
        assert done.exit_code == 1
        assert "worse" in done.output
        assert "taken by turns" not in done.output
        assert CliRunner().invoke(cli, ["compare", str(base), str(base)]).exit_code == 0

    def test_a_directory_beside_a_file_and_too_few_runs_are_refused(self, tmp_path: Path) -> None:
        base = self.write(tmp_path / "base", steady(1))
        few = self.write(tmp_path / "few", steady(1)[: TURNS_MIN - 1])
        for arguments, why in (
            ([base, base / "0.json"], "one is a directory"),
            ([base, few], "has 3 result files"),
        ):
            done = CliRunner().invoke(cli, ["compare", *map(str, arguments)])
            assert isinstance(done.exception, UsageError), done.output
            assert why in str(done.exception)

    def test_as_many_runs_are_wanted_of_each(self) -> None:
        with pytest.raises(UsageError, match="9 runs of the base and 8"):
            compare_turns(steady(1), steady(1)[1:])
