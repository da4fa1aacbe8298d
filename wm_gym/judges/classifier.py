"""`classifier`: the success classifier beside a world model's card, on one frame or on all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from wm_gym.checkpoints import Checkpoint
from wm_gym.data.frames import resize_views
from wm_gym.instructions import Goal, InstructionSet
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.judges.verdicts import Clip, JudgeContext, JudgeError, Verdict, check_batch

if TYPE_CHECKING:
    from wm_gym.world_model import LatentWorldModel

FRAMES_AT_ONCE = 256
"""Frames encoded in one pass."""


@dataclass(frozen=True)
class ClassifierJudgeConfig:
    """The success classifier of a world model."""

    checkpoint: str = ""
    """World model: a folder, or hf://org/repo@revision; by default the one that is in use."""
    every_frame: bool = False
    """Success if it is seen after any step, as in an environment with `reward="classifier"`, whose
    episode ends there (see `EpisodeRule`); by default the last frame decides."""

    def make(self, context: JudgeContext) -> ClassifierJudge:
        """Make the judge."""
        if not self.checkpoint:
            return ClassifierJudge(context.need_world_model("classifier"), self.every_frame)
        from wm_gym.world_model import load_world_model

        model = load_world_model(self.checkpoint, device=context.device)
        return ClassifierJudge(model, self.every_frame)


class ClassifierJudge:
    """Encodes the last frame, or all but the first, and asks the classifier beside the card.

    It needs no network and no language model, so it is every embedded domain's judge by default.

    Args:
        model: world model with a success classifier.
        every_frame: whether success may be seen after any step; a clip of one frame is judged by
            that.

    Raises:
        JudgeError: if the model has no checkpoint folder.
        CheckpointError: if its card names no classifier.
    """

    name = "classifier"

    def __init__(self, model: LatentWorldModel, every_frame: bool = False) -> None:
        if model.folder is None:
            raise JudgeError(
                f"{model.spec.name} has no checkpoint folder, so no success classifier beside its "
                "card; load it with load_world_model"
            )
        self.model = model
        self.frames = 0 if every_frame else 1
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
        first = 1 if self.frames == 0 else -1  # of the frames that are asked about
        asked = [clip.frames[first:] if len(clip) > 1 else clip.frames for clip in clips]
        seen = np.concatenate([resize_views(f, frame.height, frame.width, views) for f in asked])
        counts = [len(f) for f in asked]
        of_frames = [goal for goal, n in zip(goals, counts, strict=True) for _ in range(n)]
        parts = self._probabilities(seen, of_frames).double().split(counts)
        seconds = (time.monotonic() - began) / len(clips)
        verdicts, rule = [], self.classifier.rule
        for clip, part, goal in zip(clips, parts, goals, strict=True):
            score, threshold = float(part.max()), self.classifier.thresholds[goal.task]
            if self.frames == 0 and len(clip) > 1:
                score = float(rule.smoothed(part.numpy()).max())
                threshold = rule.thresholds[goal.task]
            rationale = f"probability {score:.3f} against {threshold:.3f} for task {goal.task!r}"
            success = score > threshold
            model = self.model.spec.name
            verdicts.append(Verdict(score, success, rationale, self.name, seconds, model=model))
        return verdicts

    def _probabilities(self, frames: np.ndarray, goals: Sequence[Goal]) -> torch.Tensor:
        """Of success, one per frame."""
        parts = []
        for at in range(0, len(frames), FRAMES_AT_ONCE):
            latents = self.model.encode(torch.from_numpy(frames[at : at + FRAMES_AT_ONCE]))
            parts.append(self.classifier.probability(latents, goals[at : at + FRAMES_AT_ONCE]))
        return torch.cat(parts).cpu()
