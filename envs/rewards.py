"""Rewards of imagined episodes: a success classifier, a distance regressor, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

    from wm_gym.checkpoints import Checkpoint
    from wm_gym.instructions import Goal
    from wm_gym.judges.success_classifier import RewardModel


@dataclass(frozen=True)
class Verdict:
    """What a reward says about one batch of B frames.

    Attributes:
        score: (B,) in [0, 1], how sure it is of success.
        success: (B,) bool.
        distance_m: (B,) metres to the goal, NaN where it has no opinion.
        rationale: one sentence per row.
    """

    score: np.ndarray
    success: np.ndarray
    distance_m: np.ndarray
    rationale: list[str] = field(default_factory=list)


class Reward(Protocol):
    """Scores latents against goals.

    Attributes:
        name: named in `info["judge"]`.
        needs_goal: whether an episode without an instruction is refused.
        judged_at_horizon: True if the episode is scored once, at its horizon, and terminates there
            (truncating would make an agent bootstrap onto the judged reward).
    """

    name: str
    needs_goal: bool
    judged_at_horizon: bool

    def judge(self, latents: torch.Tensor, goals: Sequence[Goal]) -> Verdict:
        """Judge normalised latents (B, h, w, D)."""
        ...

    def value(self, verdict: Verdict, previous_m: np.ndarray) -> np.ndarray:
        """Rewards (B,) of a step, given the verdict after it and the distances before it."""
        ...


class NoReward:
    """Always 0; nothing is judged, so `is_success` stays False."""

    name = "none"
    needs_goal = False
    judged_at_horizon = False

    def judge(self, latents: torch.Tensor, goals: Sequence[Goal]) -> Verdict:
        """No opinion."""
        rows = len(latents)
        nothing = np.zeros(rows, np.float64)
        return Verdict(nothing, np.zeros(rows, bool), np.full(rows, np.nan), [""] * rows)

    def value(self, verdict: Verdict, previous_m: np.ndarray) -> np.ndarray:
        """Zeros."""
        return np.zeros(len(previous_m))


class ClassifierReward:
    """1 in the step in which the classifier beside the card sees success, else 0.

    Args:
        model: classifier, distance regressor and thresholds.
    """

    name = "classifier"
    needs_goal = True
    judged_at_horizon = False

    def __init__(self, model: RewardModel) -> None:
        self.model = model

    def judge(self, latents: torch.Tensor, goals: Sequence[Goal]) -> Verdict:
        """Probability of success and distance to the goal."""
        goals = list(goals)
        score = self.model.probability(latents, goals).double().cpu().numpy()
        threshold = np.array([self.model.thresholds[goal.task] for goal in goals])
        rationale = [
            f"probability {p:.3f} against threshold {t:.3f} of task {goal.task!r}"
            for p, t, goal in zip(score, threshold, goals, strict=True)
        ]
        return Verdict(score, score > threshold, self._distance(latents, goals), rationale)

    def value(self, verdict: Verdict, previous_m: np.ndarray) -> np.ndarray:
        """1 where successful."""
        return verdict.success.astype(np.float64)

    def _distance(self, latents: torch.Tensor, goals: list[Goal]) -> np.ndarray:
        return np.full(len(goals), np.nan)


class DistanceReward(ClassifierReward):
    """Dense: metres by which the predicted distance to the goal fell, plus 1 at success."""

    name = "distance"

    def value(self, verdict: Verdict, previous_m: np.ndarray) -> np.ndarray:
        """Progress in metres, plus the sparse reward."""
        return previous_m - verdict.distance_m + verdict.success

    def _distance(self, latents: torch.Tensor, goals: list[Goal]) -> np.ndarray:
        return self.model.distance(latents, goals).double().cpu().numpy()


REWARDS = ("classifier", "distance", "none")


def check_reward_name(name: str) -> None:
    """Refuse a reward that does not exist, before a model is loaded for it.

    Raises:
        ValueError: naming those that exist.
    """
    if name in REWARDS:
        return
    planned = (
        ": judges and semantic tasks are not part of this version"
        if name.startswith(("judge:", "semantic:"))
        else ""
    )
    raise ValueError(
        f"reward={name!r} does not exist{planned}; expected one of {', '.join(map(repr, REWARDS))}"
    )


def make_reward(name: str, checkpoint: Checkpoint | None, device: str = "cpu") -> Reward:
    """The reward of a name.

    Args:
        name: one of `REWARDS`.
        checkpoint: the opened checkpoint, which holds the classifier; None if there is no folder.
        device: torch device of the latents to judge.

    Raises:
        ValueError: if the name is unknown, or the checkpoint has no classifier.
    """
    check_reward_name(name)
    if name == "none":
        return NoReward()
    if checkpoint is None or checkpoint.spec.reward is None:
        where = "this model" if checkpoint is None else str(checkpoint.folder)
        raise ValueError(
            f"reward={name!r} needs a reward model, and {where} has none beside its card; make "
            "the environment with reward='none', or train one with `wm-gym train reward`"
        )
    from wm_gym.judges.success_classifier import RewardModel

    model = RewardModel.from_checkpoint(checkpoint, device)
    return ClassifierReward(model) if name == "classifier" else DistanceReward(model)
