"""Tasks that ask for a move: which way, in trained words, as exact answers would choose."""

from dataclasses import replace

import numpy as np
import pytest

from wm_gym.envs.sims.langtable_questions import slack
from wm_gym.semantic.directed_tasks import DIRECTED_TASKS
from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
from wm_gym.semantic.rephrase import rephrased
from wm_gym.semantic.tasks import LANGTABLE_TASKS, SemanticTask, TaskError, task_from_dict

BLOCKS = ("red moon", "blue cube")
# where the second block stands, seen from the first: its direction in the picture
SIDES = {"right": (0.06, 0.01), "left": (-0.06, 0.01), "up": (-0.01, 0.06), "down": (0.01, -0.06)}
OPPOSITE = {"right": "left", "left": "right", "up": "down", "down": "up"}


def scene(side):
    """Peg far away, the first block in the middle, the second on that side of it."""
    return np.array([0.2, 0.2, 0.0, 0.0, 0.0, *SIDES[side], 0.0])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["separate", "push"])
def test_exact_answers_take_the_way_that_serves_the_task(name, side):
    state = scene(side)
    task = DIRECTED_TASKS[name].named(*BLOCKS)
    fits = [
        all(
            slack(LANGTABLE_QUESTIONS.parse(a.question), state, state, BLOCKS) > 0 for a in way.when
        )
        for way in task.subgoals
    ]
    assert sum(fits) == 1
    way = task.subgoals[fits.index(True)]
    wanted = side if name == "push" else OPPOSITE[side]
    move, behind = way.answers[-2:]
    assert move.question == f"Did the red moon move {wanted}?"
    # a move that way does change the distance as the task needs it
    step = 0.03 * np.array(
        {"right": (1, 0), "left": (-1, 0), "up": (0, 1), "down": (0, -1)}[wanted]
    )
    after = state.copy()
    after[:2] = after[2:4] - step  # the peg behind it
    after[2:4] += step
    for question in (move.question, behind.question):
        assert slack(LANGTABLE_QUESTIONS.parse(question), state, after, BLOCKS) > 1
    before_m, after_m = (np.linalg.norm(s[2:4] - s[5:7]) for s in (state, after))
    assert (after_m < before_m) == (name == "push")


@pytest.mark.parametrize("name", ["separate", "push"])
def test_the_rest_is_table_five_and_every_wording_is_trained(name):
    task, (plain,) = DIRECTED_TASKS[name], LANGTABLE_TASKS[name].subgoals
    assert task.alternatives and not LANGTABLE_TASKS[name].alternatives
    assert task.name == LANGTABLE_TASKS[name].name
    for way in task.subgoals:
        assert way.done == plain.done
        assert [a.question for a in way.answers[:-2]] == [a.question for a in plain.answers]
        shares = [a.weight / b.weight for a, b in zip(way.answers, plain.answers, strict=False)]
        assert shares == pytest.approx([0.4] * len(shares))
        assert sum(a.weight for a in way.answers) == pytest.approx(1)
    for way in task.named(*BLOCKS).subgoals:
        for answer in (*way.answers, *way.done, *way.when):
            _, phrasing = LANGTABLE_QUESTIONS.parse_phrasing(answer.question)
            assert phrasing == 0
    other = rephrased(task.named(*BLOCKS), LANGTABLE_QUESTIONS, 9)
    kinds = LANGTABLE_QUESTIONS.parse_phrasing(other.subgoals[0].when[0].question)
    assert kinds[1] == 9


def test_a_task_is_a_sequence_or_a_choice():
    task = DIRECTED_TASKS["push"].named(*BLOCKS)
    assert task_from_dict(task.to_dict()) == task
    mixed = (task.subgoals[0], replace(task.subgoals[1], when=()))
    with pytest.raises(
        TaskError, match=r"'push the red moon to the blue cube: down'.* have no 'when'"
    ):
        SemanticTask("mixed", mixed)
