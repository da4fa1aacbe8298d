"""`reward="semantic:<task>?checkpoint=…"`: questions about every generated frame.

The questions are those that end the task's last subgoal, asked after no action: the zero-horizon
questions that arXiv:2510.19818 scores generated frames with (its baseline AVD).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wm_gym.envs.rewards import Reward, Scores, Seen
from wm_gym.errors import UserError
from wm_gym.instructions import Goal
from wm_gym.judges.registry import JudgeContext, read_judge_name
from wm_gym.judges.semantic import SemanticJudge
from wm_gym.semantic.questions import QuestionError

if TYPE_CHECKING:
    from wm_gym.spec import WorldModelSpec

ANY_TASK = "any"
SEMANTIC_PREFIX = "semantic:"


def read_semantic_reward(name: str) -> tuple[str, str]:
    """Task and judge that a reward's name states.

    Args:
        name: `semantic:<task>` and the parameters of the judge `semantic`, e.g.
            `semantic:push?checkpoint=runs/swm&threshold=0.8`; the task `any` is the instruction's.

    Returns:
        The task, and the judge's name.

    Raises:
        ValueError: if the task or a parameter is missing or wrong.
    """
    task, _, parameters = name.removeprefix(SEMANTIC_PREFIX).partition("?")
    if not task:
        raise UserError(
            f"reward={name!r} names no task; expected e.g. "
            "'semantic:push?checkpoint=FOLDER', or 'semantic:any?…' for the instruction's own"
        )
    judge = f"semantic?{parameters}"
    try:
        read_judge_name(judge)
    except ValueError as error:
        raise UserError(
            f"reward={name!r}: {error}; expected e.g. 'semantic:push?checkpoint=FOLDER'"
        ) from error
    return task, judge


class SemanticReward(Reward):
    """1 in the step in which a semantic world model sees the task done, else 0.

    Args:
        name: the reward's name.
        spec: card of the world model whose frames are scored.
        device: torch device.

    Attributes:
        task: the only task it asks about, or "any".

    Raises:
        ValueError: if the semantic model is of another simulator, or does not know the task or the
            words for the objects.
        CheckpointError: if it cannot be loaded.
    """

    def __init__(self, name: str, spec: WorldModelSpec, device: str = "cpu") -> None:
        self.name = name
        self.task, judge = read_semantic_reward(name)
        made = read_judge_name(judge).make(JudgeContext(device=device, simulator=spec.twin))
        assert isinstance(made, SemanticJudge)
        self.asked = made
        card = made.model.spec
        if card.twin != spec.twin:
            raise UserError(
                f"reward={name!r}: {card.name} answers questions about {card.twin}, and "
                f"{spec.name} imagines {spec.twin}; name a checkpoint trained on that simulator"
            )
        if self.task not in (ANY_TASK, *card.tasks):
            raise UserError(
                f"reward={name!r}: task {self.task!r} is unknown; expected 'any' or one of "
                f"{list(card.tasks)}"
            )
        for thing in spec.objects:
            try:
                made.model.tokenizer.encode(thing)
            except QuestionError as error:
                raise UserError(f"reward={name!r} cannot be asked about it: {error}") from error

    def score(
        self,
        seen: Seen,
        goals: Sequence[Goal],
        recent: Sequence[Sequence[float]] | None = None,
    ) -> Scores:
        """Judge the newest frames.

        The score is the probability of the least likely desired answer.
        """
        answers = self.asked.answers(list(seen.frames()), goals)
        score = np.array([answer.score for answer in answers])
        success = score > self.asked.threshold
        nothing = np.full(len(score), np.nan)
        return Scores(score, success, nothing, [answer.rationale for answer in answers])

    def at_start(self, seen: Seen, goals: Sequence[Goal]) -> Scores:
        """Judge the frames that episodes begin with, as any other."""
        return self.score(seen, goals)

    def value(self, scores: Scores, previous_m: np.ndarray) -> np.ndarray:
        """1 where successful."""
        return scores.success.astype(np.float64)
