"""Tasks that ask for a move: which way, in trained words, as exact answers would choose."""

import numpy as np
import pytest

from wm_gym.envs.sims.langtable.questions import slack
from wm_gym.semantic.directed_tasks import DIRECTED_MULTI_STEP, DIRECTED_TASKS, directed_task
from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
from wm_gym.semantic.rephrase import rephrased
from wm_gym.semantic.tasks import (
    LANGTABLE_MULTI_STEP,
    LANGTABLE_TASKS,
    TaskError,
    Way,
    langtable_task,
    task_from_dict,
)

BLOCKS = ("red moon", "blue cube")
# where the second block stands, seen from the first: its direction in the picture
SIDES = {"right": (0.06, 0.01), "left": (-0.06, 0.01), "up": (-0.01, 0.06), "down": (0.01, -0.06)}
OPPOSITE = {"right": "left", "left": "right", "up": "down", "down": "up"}


def exact(question, before, after):
    return slack(LANGTABLE_QUESTIONS.parse(question), before, after, BLOCKS)


def scene(side):
    """Peg far away, the first block in the middle, the second on that side of it."""
    return np.array([0.2, 0.2, 0.0, 0.0, 0.0, *SIDES[side], 0.0])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["separate", "push"])
def test_exact_answers_take_the_way_that_serves_the_task(name, side):
    state = scene(side)
    (task,) = directed_task(name, BLOCKS).subgoals
    fits = [all(exact(a.question, state, state) > 0 for a in way.when) for way in task.ways]
    assert sum(fits) == 1
    wanted = side if name == "push" else OPPOSITE[side]
    move, behind = task.ways[fits.index(True)].answers
    assert move.question == f"Did the red moon move {wanted}?"
    # a move that way does change the distance as the task needs it
    step = 0.03 * np.array(
        {"right": (1, 0), "left": (-1, 0), "up": (0, 1), "down": (0, -1)}[wanted]
    )
    after = state.copy()
    after[:2] = after[2:4] - step  # the peg behind it
    after[2:4] += step
    assert min(exact(move.question, state, after), exact(behind.question, state, after)) > 1
    before_m, after_m = (np.linalg.norm(s[2:4] - s[5:7]) for s in (state, after))
    assert (after_m < before_m) == (name == "push")


@pytest.mark.parametrize("name", ["separate", "push"])
def test_the_rest_is_table_five_and_every_wording_is_trained(name):
    (step,), (plain,) = DIRECTED_TASKS[name].subgoals, LANGTABLE_TASKS[name].subgoals
    assert (step.name, step.done) == (plain.name, plain.done)
    assert [a.question for a in step.answers] == [a.question for a in plain.answers]
    shares = [a.weight / b.weight for a, b in zip(step.answers, plain.answers, strict=True)]
    assert shares == pytest.approx([0.4] * len(shares))
    for way in step.ways:
        assert sum(a.weight for a in (*step.answers, *way.answers)) == pytest.approx(1)
    task = directed_task(name, BLOCKS)
    for wording, number in ((task, 0), (rephrased(task, LANGTABLE_QUESTIONS, 9), 9)):
        (step,) = wording.subgoals
        ways = [a for way in step.ways for a in (*way.when, *way.answers)]
        for answer in (*step.answers, *step.done, *ways):
            assert LANGTABLE_QUESTIONS.parse_phrasing(answer.question)[1] == number


def test_other_tasks_stay_as_they_are():
    assert directed_task("reach", ("red moon",)) == langtable_task("reach", ("red moon",))
    with pytest.raises(TaskError, match="with objects"):
        directed_task("push", ("red moon",))
    for name, task in DIRECTED_MULTI_STEP.items():
        plain = LANGTABLE_MULTI_STEP[name]
        assert [s.name for s in task.subgoals] == [s.name for s in plain.subgoals]
        assert [len(s.ways) for s in task.subgoals] == [4, 4]


def test_ways_as_json_and_badly_stated():
    task = directed_task("push", BLOCKS)
    assert task_from_dict(task.to_dict()) == task
    with pytest.raises(TaskError, match="at least one answer in 'when' and 'answers'"):
        Way((), task.subgoals[0].answers)
    faulty = task.to_dict()
    faulty["subgoals"][0]["ways"][0]["then"] = []
    with pytest.raises(TaskError, match=r"subgoals\.0\.ways\.0\.then"):
        task_from_dict(faulty)
