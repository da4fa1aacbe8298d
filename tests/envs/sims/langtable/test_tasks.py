"""Tasks of LangTable: words, thresholds and starts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_gym.envs.sims.langtable.layout import sample_start
from wm_gym.envs.sims.langtable.shapes import PEG_RADIUS_M
from wm_gym.envs.sims.langtable.tasks import (
    OBJECTS,
    OOD_OBJECTS,
    TASKS,
    Goal,
    goals,
    is_success,
    parse_instruction,
    peg_gaps,
    task_distance,
)


@pytest.mark.parametrize("objects", [OBJECTS, OOD_OBJECTS])
def test_every_goal_survives_the_way_through_words(objects):
    every = goals("any", objects)
    assert len(every) == len(objects) + 2 * len(objects) * (len(objects) - 1)
    assert all(parse_instruction(goal.instruction, objects) == goal for goal in every)
    assert len({goal.instruction for goal in every}) == len(every)


def test_the_papers_sentences():
    assert Goal("reach", "green cube").instruction == "reach the green cube"
    assert (
        Goal("separate", "red moon", "green star").instruction
        == "separate the red moon from the green star"
    )
    assert (
        Goal("push", "green cube", "blue moon").instruction
        == "push the green cube to the blue moon"
    )


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TASKS), st.integers(0, 2**32 - 1), st.sampled_from([OBJECTS, OOD_OBJECTS]))
def test_starts_touch_nothing_and_are_not_yet_successful(task, seed, objects):
    rng = np.random.default_rng(seed)
    choices = goals(task, objects)
    goal = choices[int(rng.integers(len(choices)))]
    state = sample_start(goal, objects, rng)
    assert not is_success(state, goal, objects)
    assert peg_gaps(state, objects).min() > 0.005
    centres = state[2:].reshape(-1, 3)[:, :2]
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1) + np.eye(len(objects))
    assert apart.min() >= 0.0599


def placed(distance_m):
    state = np.concatenate([(0.0, 0.15), np.column_stack([np.arange(8) * 0.2] * 3).ravel()])
    state[2:].reshape(-1, 3)[1] = state[2:5] + np.array([distance_m, 0.0, 0.0])
    return state


def test_thresholds():
    push, separate = (Goal(task, "green cube", "blue cube") for task in ("push", "separate"))
    assert is_success(placed(0.0745), push) and not is_success(placed(0.0755), push)
    assert is_success(placed(0.1005), separate) and not is_success(placed(0.0995), separate)
    assert task_distance(placed(0.09), push) == pytest.approx(0.09)
    assert task_distance(placed(0.09), separate) == pytest.approx(0.01)
    reach = Goal("reach", "green cube")
    for gap, success in ((0.0015, True), (0.0025, False)):
        state = placed(0.2)
        state[:2] = (-0.02 - PEG_RADIUS_M - gap, 0.0)  # beside the cube's left face
        assert task_distance(state, reach) == pytest.approx(gap)
        assert is_success(state, reach) is success
