"""What a simulator itself answers to the questions that end a subgoal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wm_gym.envs.sims.answers import ANSWERS
from wm_gym.semantic.question_sets import QUESTION_SETS
from wm_gym.semantic.tasks import DesiredAnswer


def holds_exactly(
    wanted: Sequence[DesiredAnswer], states: np.ndarray, objects: Sequence[str], simulator: str
) -> np.ndarray:
    """Whether desired answers all hold in the present of states.

    Where this differs from the simulator's own success, no model can make up for it by answering
    better: the questions ask something else than the success does.

    Args:
        wanted: questions with desired answers.
        states: privileged states, (N, S).
        objects: what lies on the table, in the states' order.
        simulator: its id.

    Returns:
        (N,) bool.

    Raises:
        QuestionError: if a question is of no type.
        ValueError: if it is about things that are not on the table.
    """
    questions, slacks = QUESTION_SETS[simulator], ANSWERS[simulator].slacks
    holds = np.ones(len(states), bool)
    for desired in wanted:
        question = questions.parse(desired.question)
        number = questions.instances(question.type, objects).index(question)
        yes = slacks(question.type, states, states, objects)[:, number] > 0
        holds &= yes == (desired.answer == "yes")
    return holds
