"""`semantic`: a semantic world model's answers about the present of a clip's last frame.

The questions are those that end the task's last step in planning, asked after no action (the
zero-horizon questions of arXiv:2510.19818).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from wm_gym.data.frames import resize
from wm_gym.errors import UserError
from wm_gym.instructions import Goal, InstructionSet
from wm_gym.judges.verdicts import Clip, JudgeContext, JudgeError, Verdict, check_batch
from wm_gym.semantic.tasks import DesiredAnswer, semantic_task
from wm_gym.semantic.value import present_probabilities

if TYPE_CHECKING:
    from wm_gym.semantic.world_model import SemanticWorldModel

EMBEDDED = "embedded"


@dataclass(frozen=True)
class SemanticJudgeConfig:
    """Questions about the last frame to a semantic world model."""

    checkpoint: str
    """Semantic checkpoint: embedded (the one that ships for the episodes' simulator), a folder, or
    hf://org/repo@revision."""
    threshold: float | None = None
    """Probability that every desired answer must exceed; the card's by default."""

    def __post_init__(self) -> None:
        """Check the threshold."""
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UserError(f"threshold={self.threshold!r} must be between 0 and 1")

    def make(self, context: JudgeContext) -> SemanticJudge:
        """Make the judge."""
        from wm_gym.semantic.world_model import embedded_semantic_models, load_semantic_model

        name = "semantic?checkpoint=embedded"
        embedded = None
        if self.checkpoint == EMBEDDED:
            simulator = context.need_simulator("semantic")
            shipped = embedded_semantic_models()
            if simulator not in shipped:
                raise JudgeError(
                    f"judge {name!r}: no semantic world model of {simulator} ships, only of "
                    f"{', '.join(sorted(shipped))}; name a folder, 'semantic?checkpoint=FOLDER'"
                )
            embedded = shipped[simulator]
        model = load_semantic_model(
            self.checkpoint, embedded=embedded, env_id=name, device=context.device
        )
        return SemanticJudge(model, self.threshold)


@dataclass(frozen=True)
class PresentAnswers:
    """What a model says about the present of a frame.

    Attributes:
        wanted: the desired answers.
        likely: probability of each.
    """

    wanted: tuple[DesiredAnswer, ...]
    likely: tuple[float, ...]

    @property
    def score(self) -> float:
        """Probability of the least likely desired answer."""
        return min(self.likely)

    @property
    def rationale(self) -> str:
        """Questions, answers and probabilities."""
        return "; ".join(
            f"{answer.question} {answer.answer} {p:.2f}"
            for answer, p in zip(self.wanted, self.likely, strict=True)
        )


class SemanticJudge:
    """The score is the probability of the least likely desired answer.

    Args:
        model: the semantic world model.
        threshold: probability that it must exceed; the card's by default.
    """

    name = "semantic"
    frames = 1

    def __init__(self, model: SemanticWorldModel, threshold: float | None = None) -> None:
        self.model = model
        self.threshold = model.spec.answer_threshold if threshold is None else threshold
        self.instructions = InstructionSet(model.spec.tasks, model.spec.objects)

    def judge(self, clips: Sequence[Clip], instructions: Sequence[str]) -> list[Verdict]:
        """Judge clips, see `Judge.judge`; frames of another size are resized to the model's.

        Raises:
            InstructionError: if an instruction fits none of the card's templates.
            TaskError: if there are no questions for its task.
        """
        check_batch(clips, instructions)
        if not clips:
            return []
        began = time.monotonic()
        goals = [self.instructions.parse(text) for text in instructions]
        found = self.answers([clip.frames[-1] for clip in clips], goals)
        seconds = (time.monotonic() - began) / len(clips)
        model = self.model.spec.name
        return [
            Verdict(
                answer.score, answer.score > self.threshold, answer.rationale, self.name, seconds,
                model=model,
            )
            for answer in found
        ]  # fmt: skip

    def answers(self, frames: Sequence[np.ndarray], goals: Sequence[Goal]) -> list[PresentAnswers]:
        """What the model says of frames, uint8 (H, W, 3) of any size, and a goal each.

        Raises:
            TaskError: if there are no questions for a goal's task.
        """
        tasks = [semantic_task(self.model.spec.twin, goal.task, goal.objects) for goal in goals]
        wanted = [task.subgoals[-1].done for task in tasks]
        frame = self.model.spec.frame
        shown = np.stack([resize(picture, frame.height, frame.width) for picture in frames])
        likely = present_probabilities(self.model.look(torch.from_numpy(shown)), wanted)
        return [
            PresentAnswers(answers, tuple(row.tolist()))
            for answers, row in zip(wanted, likely, strict=True)
        ]
