"""The law of outliers: few false alarms whatever the spread, and no less power than it promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmbench.survey.law import Rule, judge

Shape = tuple[int, int]
Draw = Callable[[np.random.Generator, Shape], np.ndarray]

SPREADS: dict[str, Draw] = {
    "normal": lambda random, shape: random.normal(0, 0.02, shape),
    "laplace": lambda random, shape: random.laplace(0, 0.02, shape),
    "gamma, skewed": lambda random, shape: random.gamma(2, 0.02, shape),
    "exponential": lambda random, shape: random.exponential(0.03, shape),
    "t with 4 degrees": lambda random, shape: 0.02 * random.standard_t(4, shape),
    "lognormal": lambda random, shape: 0.02 * random.lognormal(0, 0.7, shape),
}
FIGURES = 24
ROWS = [list(range(FIGURES)), *(list(range(start, start + 6)) for start in range(0, FIGURES, 6))]
RUNS = 20


def logs(random: np.random.Generator, nodes: int, draw: Draw) -> np.ndarray:
    return draw(random, (nodes, FIGURES)) + random.normal(0, 0.01, (nodes, 1))


def slow(logarithms: np.ndarray) -> set[int]:
    times = 1e-7 * np.exp(logarithms)
    together, single = judge(times, np.full_like(times, 0.005), ROWS, Rule())
    return set(np.flatnonzero(together.slow.any(axis=1) | single.slow.any(axis=1)).tolist())


@pytest.mark.parametrize("nodes", [2, 4, 12, 60, 500])
@pytest.mark.parametrize("spread", SPREADS)
def test_false_alarms_are_rare_whatever_the_spread(spread: str, nodes: int) -> None:
    random = np.random.default_rng(nodes)
    alarms = [len(slow(logs(random, nodes, SPREADS[spread]))) for _ in range(RUNS)]
    assert sum(alarms) <= 0.2 * RUNS
    assert max(alarms) <= 1


@pytest.mark.parametrize("spread", SPREADS)
def test_slow_in_all_or_in_one_workload_is_always_found_among_500(spread: str) -> None:
    random = np.random.default_rng(7)
    for _ in range(5):
        spoilt = logs(random, 500, SPREADS[spread])
        spoilt[3] += np.log(1.25)
        spoilt[77, 0:6] += np.log(1.3)
        assert {3, 77} <= slow(spoilt)


def test_slow_in_a_single_figure_is_found_when_it_is_far_out_of_its_tail() -> None:
    random = np.random.default_rng(7)
    spoilt = logs(random, 500, SPREADS["normal"])
    spoilt[200, 7] += np.log(1.5)
    assert slow(spoilt) == {200}


@settings(max_examples=30, deadline=None)
@given(unit=st.floats(1e-9, 1e3), seed=st.integers(0, 1000), nodes=st.integers(2, 40))
def test_neither_the_unit_nor_the_order_of_nodes_matters(
    unit: float, seed: int, nodes: int
) -> None:
    random = np.random.default_rng(seed)
    given_logs = logs(random, nodes, SPREADS["laplace"])
    given_logs[0] += np.log(2)
    order = random.permutation(nodes)
    found = slow(given_logs)
    assert {int(order[node]) for node in slow(given_logs[order])} == found
    assert slow(given_logs + np.log(unit)) == found


def test_a_figure_that_a_node_lacks_says_nothing_about_it() -> None:
    random = np.random.default_rng(3)
    spoilt = logs(random, 20, SPREADS["normal"])
    spoilt[4] = np.nan
    spoilt[5, :20] = np.nan
    spoilt[:, 9] = np.nan
    assert slow(spoilt) == set()
    assert slow(np.full((3, FIGURES), np.nan)) == set()


def test_what_is_certain_but_small_does_not_count() -> None:
    times = np.ones((50, FIGURES))
    times[7] = 1.09
    together, single = judge(times, np.zeros_like(times), ROWS, Rule())
    assert not together.slow.any()
    assert not single.slow.any()
    together, _ = judge(times, np.zeros_like(times), ROWS, Rule(least_ratio=1.05))
    assert together.slow[:, 0].nonzero()[0].tolist() == [7]
