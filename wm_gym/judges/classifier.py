"""`classifier`: the success classifier beside a world model's card, on a clip's last frame."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from wm_gym.checkpoints import Checkpoint
from wm_gym.data.frames import resize_views
from wm_gym.instructions import InstructionSet
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.judges.verdicts import Clip, JudgeError, Verdict, check_batch

if TYPE_CHECKING:
    from wm_gym.judges.registry import JudgeContext
    from wm_gym.world_model import LatentWorldModel


@dataclass(frozen=True)
class ClassifierJudgeConfig:
    """The success classifier of a world model."""

    checkpoint: str = ""
    """World model: a folder, or hf://org/repo@revision; by default the one that is in use."""

    def make(self, context: JudgeContext) -> ClassifierJudge:
        """Make the judge."""
        if not self.checkpoint:
            return ClassifierJudge(context.need_world_model("classifier"))
        from wm_gym.world_model import load_world_model

        return ClassifierJudge(load_world_model(self.checkpoint, device=context.device))


class ClassifierJudge:
    """Encodes the last frame and asks the classifier beside the card.

    It needs no network and no language model, so it is every embedded domain's judge by default.

    Args:
        model: world model with a success classifier.

    Raises:
        JudgeError: if the model has no checkpoint folder.
        CheckpointError: if its card names no classifier.
    """

    name = "classifier"
    frames = 1

    def __init__(self, model: LatentWorldModel) -> None:
        if model.folder is None:
            raise JudgeError(
                f"{model.spec.name} has no checkpoint folder, so no success classifier beside its "
                "card; load it with load_world_model"
            )
        self.model = model
        checkpoint = Checkpoint(model.folder, model.spec)
        self.classifier = RewardModel.from_checkpoint(checkpoint, str(model.device))
        self.instructions = InstructionSet(model.spec.tasks, model.spec.objects)

    def judge(self, clips: Sequence[Clip], instructions: Sequence[str]) -> list[Verdict]:
        """Judge clips, see `Judge.judge`; frames of another size are resized to the model's.

        Raises:
            InstructionError: if an instruction fits none of the card's templates.
        """
        check_batch(clips, instructions)
        if not clips:
            return []
        began = time.monotonic()
        goals = [self.instructions.parse(text) for text in instructions]
        frame, views = self.model.spec.frame, self.model.spec.num_views
        last = [resize_views(c.frames[-1], frame.height, frame.width, views) for c in clips]
        frames = torch.from_numpy(np.stack(last))
        scores = self.classifier.probability(self.model.encode(frames), goals).tolist()
        seconds = (time.monotonic() - began) / len(clips)
        verdicts = []
        for score, goal in zip(scores, goals, strict=True):
            threshold = self.classifier.thresholds[goal.task]
            rationale = f"probability {score:.3f} against {threshold:.3f} for task {goal.task!r}"
            success = score > threshold
            model = self.model.spec.name
            verdicts.append(Verdict(score, success, rationale, self.name, seconds, model=model))
        return verdicts
