"""The same task in other words: does a plan depend on how its questions are phrased?"""

from __future__ import annotations

from dataclasses import replace

from wm_gym.semantic.questions import QuestionSet
from wm_gym.semantic.tasks import SemanticTask


def rephrased(task: SemanticTask, questions: QuestionSet, phrasing: int) -> SemanticTask:
    """The task with every question in another wording of its type.

    Args:
        task: the task.
        questions: the types its questions are of.
        phrasing: number of the wording; 0 to 7 are trained, 8 and 9 are not.

    Raises:
        QuestionError: if there is no such phrasing, or a question is of no known type.

    Example:
        >>> from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
        >>> from wm_gym.semantic.tasks import langtable_task
        >>> other = rephrased(langtable_task("reach", ("red moon",)), LANGTABLE_QUESTIONS, 2)
        >>> other.subgoals[0].answers[0].question
        'Is the peg in contact with the red moon?'
    """

    def other(question: str) -> str:
        return questions.text(questions.parse(question), phrasing)

    return replace(task, subgoals=tuple(step.reworded(other) for step in task.subgoals))
