"""The stopping rule on scripted sequences of samples."""

import pytest

from shmbench.measure.flags import Flag
from shmbench.measure.stopping import Decision, StoppingRule

RULE = StoppingRule(min_groups=3, max_groups=6, target=0.02, budget_s=10)
STEADY = [1.0, 1.001, 0.999, 1.0, 1.001, 0.999]
NOISY = [1.0, 1.3, 0.8, 1.2, 0.7, 1.1]


def run(samples, seconds_per_group):
    """The decision after each group, until one ends the case."""
    decisions = []
    for count in range(1, len(samples) + 1):
        decisions.append(RULE.decide(samples[:count], count * seconds_per_group))
        if decisions[-1] is not Decision.CONTINUE:
            break
    return decisions


def test_a_steady_case_ends_at_the_smallest_number_of_groups():
    assert run(STEADY, 1) == [Decision.CONTINUE, Decision.CONTINUE, Decision.NARROW]


def test_a_noisy_case_goes_on_to_the_largest_number_of_groups():
    assert run(NOISY, 1) == [Decision.CONTINUE] * 5 + [Decision.MAX_GROUPS]


def test_a_noisy_case_ends_with_its_budget():
    assert run(NOISY, 2.5) == [Decision.CONTINUE] * 3 + [Decision.BUDGET]


def test_a_slow_case_ends_with_its_budget_below_the_smallest_number_of_groups():
    assert run(STEADY, 11) == [Decision.BUDGET]


def test_a_narrow_interval_is_said_to_be_narrow_even_when_the_budget_ends_too():
    assert RULE.decide(STEADY[:3], 10) is Decision.NARROW


def test_equal_samples_do_not_end_a_case_before_the_smallest_number_of_groups():
    assert RULE.decide([1.0, 1.0], 0) is Decision.CONTINUE


def test_no_samples_yet_is_no_reason_to_end():
    assert RULE.decide([], 0) is Decision.CONTINUE


def test_a_case_that_settles_late_ends_as_soon_as_it_has():
    samples = [1.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    wide = StoppingRule(min_groups=3, max_groups=20)
    decisions = [wide.decide(samples[:count], 0) for count in range(1, 8)]
    assert decisions[:-1] == [Decision.CONTINUE] * 6
    assert decisions[-1] is Decision.NARROW


@pytest.mark.parametrize(
    ("samples", "decision", "flags"),
    [
        (STEADY, Decision.NARROW, []),
        (STEADY[:3], Decision.NARROW, [Flag.FEW_GROUPS]),
        (NOISY, Decision.MAX_GROUPS, [Flag.WIDE]),
        (NOISY[:4], Decision.BUDGET, [Flag.BUDGET, Flag.WIDE, Flag.FEW_GROUPS]),
        ([], Decision.BUDGET, [Flag.BUDGET, Flag.FEW_GROUPS]),
    ],
)
def test_the_flags_say_what_the_interval_lacks(samples, decision, flags):
    assert RULE.flags(samples, decision) == flags


def test_every_flag_has_a_text_and_a_hint_of_one_line():
    for flag in Flag:
        assert flag == flag.value
        for line in (flag.text, flag.hint):
            assert line
            assert "\n" not in line
