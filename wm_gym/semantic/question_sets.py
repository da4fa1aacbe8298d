"""Which question types belong to which simulator."""

from __future__ import annotations

from wm_gym.semantic.cube_question_types import CUBE_QUESTIONS
from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
from wm_gym.semantic.questions import QuestionSet

QUESTION_SETS: dict[str, QuestionSet] = {
    "LangTable-v0": LANGTABLE_QUESTIONS,
    "Cube-v0": CUBE_QUESTIONS,
}
"""Simulator id -> its question types."""
