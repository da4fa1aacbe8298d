"""When an episode counts as a success whose every step is asked about."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wm_gym.judges.success_classifier import EpisodeRule
from wm_gym.training.episode_rule import (
    ScoredEpisode,
    choose_rule,
    complete,
    measure_rule,
)

PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(PROBABILITIES, st.integers(1, 12))
def test_the_window_is_the_mean_of_the_last_steps_and_begins_with_failures(values, window):
    found = EpisodeRule(window, {}).smoothed(np.array(values))
    padded = [0.0] * window + values
    expected = [np.mean(padded[i + 1 : i + 1 + window]) for i in range(len(values))]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.max() <= max(values) + 1e-12


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="window=0 must be at least 1 step"):
        EpisodeRule(0, {})


def episodes(task="push", seed=0, flicker=True):
    """Twenty successes that last, twenty failures in which single frames look like one."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(40):
        success = number % 2 == 0
        probabilities = rng.uniform(0.0, 0.3, 30)
        if success:
            probabilities[20:] = rng.uniform(0.6, 0.9, 10)
        elif flicker:
            probabilities[rng.integers(30)] = 0.95
        found.append(ScoredEpisode(task, probabilities, 20 if success else None))
    return found


def test_flickering_frames_ask_for_a_window_and_clean_ones_for_none():
    world = episodes()
    rule = choose_rule([world])
    assert rule is not None and rule.window > 1
    report = measure_rule(rule, world)["push"]
    assert report["balanced_accuracy"] == 1 and report["false_positive_rate"] == 0
    assert (report["episodes"], report["successes"]) == (40, 20)
    at_once = choose_rule([world], windows=(1,))
    assert at_once is not None
    assert measure_rule(at_once, world)["push"]["balanced_accuracy"] < 0.6
    clean = choose_rule([episodes(flicker=False)])
    assert clean is not None and clean.window == 1
    # the middle of what separates them, 0.3 and 0.6 or less
    assert 0.35 < clean.thresholds["push"] < 0.75


def test_worlds_and_tasks_count_alike_and_tasks_without_both_outcomes_not_at_all():
    failures = [ScoredEpisode("reach", np.full(30, 0.2), None) for _ in range(5)]
    rule = choose_rule([[*episodes(), *failures], failures])
    assert rule is not None and set(rule.thresholds) == {"push"}
    assert set(measure_rule(rule, [*episodes(), *failures])) == {"push"}
    whole = complete(rule, {"push": 0.9, "reach": 0.4})
    assert whole.thresholds == {"push": rule.thresholds["push"], "reach": 0.4}
    assert whole.window == rule.window
    assert choose_rule([failures, []]) is None


def test_rates_are_counted_by_hand():
    rule = EpisodeRule(1, {"push": 0.5})
    some = [(0.9, True), (0.4, True), (0.6, False), (0.1, False), (0.2, False), (0.3, False)]
    found = [ScoredEpisode("push", np.array([0.0, p]), 1 if s else None) for p, s in some]
    report = measure_rule(rule, found)
    assert report == {
        "push": {
            "episodes": 6, "successes": 2, "balanced_accuracy": 0.625,
            "false_positive_rate": 0.25, "false_negative_rate": 0.5, "not_seen_in_time_rate": 0.5,
        }
    }  # fmt: skip


def test_with_patience_a_rule_that_would_see_successes_too_late_is_not_chosen():
    """Where nothing flickers, a mean of many steps is as right about whole episodes, but late."""
    world = []
    for number in range(40):
        probabilities = np.full(60, 0.1)
        if number % 2 == 0:
            probabilities[25:] = 0.9
        world.append(ScoredEpisode("push", probabilities, 25 if number % 2 == 0 else None))
    late = EpisodeRule(20, {"push": 0.8})
    report = measure_rule(late, world)["push"]
    assert report["balanced_accuracy"] == 1 and report["not_seen_in_time_rate"] == 1
    # any threshold between separates whole episodes; within a few steps a low one alone does
    whole = choose_rule([world], windows=(20,))
    hasty = choose_rule([world], windows=(20,), patience=4)
    assert whole is not None and abs(whole.thresholds["push"] - 0.5) < 0.02
    assert hasty is not None and hasty.thresholds["push"] < 0.1 + 5 / 20 * 0.8
    assert measure_rule(whole, world)["push"]["not_seen_in_time_rate"] == 0
    assert measure_rule(hasty, world)["push"]["not_seen_in_time_rate"] == 0
