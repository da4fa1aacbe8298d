"""Who answers questions about the states of each simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wm_gym.envs.sims.cube import questions as cube_questions
from wm_gym.envs.sims.cube import view as cube_view
from wm_gym.envs.sims.langtable import questions as langtable_questions
from wm_gym.envs.sims.langtable import view as langtable_view


@dataclass(frozen=True)
class Answers:
    """What a simulator says about its states.

    Attributes:
        slacks: type, states before and after (N, S), objects -> slacks (N, instances), see
            `langtable_questions.slacks`.
        present_types: types that a single picture answers.
        places: states (N, S) -> where effector and objects appear in a square frame, (N, 1 + n, 2),
            see `langtable_view.project`.
        path: state (S,), actions (..., n, A) -> where the effector would go in such a frame,
            (..., n + 1, 2).
        effector: the word for what moves the objects.
    """

    slacks: Callable[[str, np.ndarray, np.ndarray, Sequence[str]], np.ndarray]
    present_types: tuple[str, ...]
    places: Callable[[np.ndarray], np.ndarray]
    path: Callable[[np.ndarray, np.ndarray], np.ndarray]
    effector: str


ANSWERS: dict[str, Answers] = {
    "LangTable-v0": Answers(
        langtable_questions.slacks,
        langtable_questions.PRESENT_TYPES,
        langtable_view.places,
        langtable_view.path,
        "peg",
    ),
    "Cube-v0": Answers(
        cube_questions.slacks,
        cube_questions.PRESENT_TYPES,
        cube_view.places,
        cube_view.path,
        "gripper",
    ),
}
"""Simulator id -> its answers."""
