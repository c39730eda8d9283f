"""The trial that decides whether to populate ahead, on a scripted consumer."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmbench.policy.trial import SLOW_NS, Trial


def run(trial: Trial, windows: int, ns_a_page: Callable[[int, bool], float]) -> list[bool]:
    """Whether each of the windows was populated, when it takes so long with and without."""
    on = False
    found = []
    for i in range(windows):
        on = trial.window(ns_a_page(i, on))
        found.append(on)
    return found


def test_what_makes_it_faster_stays_on_but_for_a_look_now_and_then():
    on = run(Trial(), 2000, lambda i, on: 600 if on else 900)
    assert sum(on) > 0.85 * len(on)
    assert not all(on[-200:])


@pytest.mark.parametrize("factor", [0.97, 1.0, 1.5])
def test_what_gains_nothing_is_tried_ever_more_rarely(factor):
    on = run(Trial(), 5000, lambda i, on: 900 * factor if on else 900)
    assert sum(on[:100]) > sum(on[-100:])
    assert sum(on) < 0.02 * len(on)


def test_a_fast_consumer_is_left_alone():
    assert not any(run(Trial(), 1000, lambda i, on: 300))


def test_a_gain_that_ends_turns_it_off():
    on = run(Trial(), 4000, lambda i, on: (600 if i < 500 else 1200) if on else 900)
    assert any(on[:500])
    assert sum(on[1000:]) < 0.05 * 3000


@given(st.floats(0, 1e6))
def test_a_run_that_was_timed_is_populated_at_once_only_if_it_was_slow(ns_a_page):
    assert Trial().begin(ns_a_page) == (ns_a_page >= SLOW_NS)


@given(st.floats(SLOW_NS, 1e4), st.floats(0.1, 0.9))
def test_a_trial_that_begins_with_what_was_timed_keeps_a_gain_and_ends_a_loss(without, factor):
    for times, kept in ((factor, True), (1 / factor, False)):
        trial = Trial()
        assert trial.begin(without)
        for _ in range(5):
            on = trial.window(without * times)
        assert on == kept
        assert trial.begin(without) == kept  # a pause is kept, whatever the next run was like
