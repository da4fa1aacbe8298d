"""Who answers questions about the states of each simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wm_gym.envs.sims import cube_questions, langtable_questions


@dataclass(frozen=True)
class Answers:
    """What a simulator says about its states.

    Attributes:
        slacks: type, states before and after (N, S), objects -> slacks (N, instances), see
            `langtable_questions.slacks`.
        present_types: types that a single picture answers.
    """

    slacks: Callable[[str, np.ndarray, np.ndarray, Sequence[str]], np.ndarray]
    present_types: tuple[str, ...]


ANSWERS: dict[str, Answers] = {
    "LangTable-v0": Answers(langtable_questions.slacks, langtable_questions.PRESENT_TYPES),
    "Cube-v0": Answers(cube_questions.slacks, cube_questions.PRESENT_TYPES),
}
"""Simulator id -> its answers."""
