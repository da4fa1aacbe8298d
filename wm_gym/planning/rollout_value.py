"""The value of action sequences in a latent world model: imagined under common noise, scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wm_gym.dynamics.rollout import Rollout
from wm_gym.instructions import Goal
from wm_gym.judges.success_classifier import RewardModel

LatentScore = Callable[[Tensor, np.ndarray], Tensor]
"""Scores (R,) of normalised latents (R, h, w, D), given which problem each row is of, (R,)."""


class RolloutValue:
    """Value function for MPPI and CEM: forks a rollout, so the dream itself stays where it is.

    Candidates of a problem meet the same noise, that of its own row: their values differ by their
    actions alone. There is no gradient.

    Args:
        rollout: B rows, at the state to plan from.
        score: what makes a state good.
        reduce: "last" scores the state after the last action, "mean" averages over all states.
    """

    def __init__(
        self, rollout: Rollout, score: LatentScore, reduce: Literal["last", "mean"] = "last"
    ) -> None:
        self.rollout, self.score, self.reduce = rollout, score, reduce

    def __call__(self, actions: Tensor) -> Tensor:
        """Values (B, K) of actions (B, K, n, A), physical units.

        Raises:
            ValueError: if B is not the number of the rollout's rows.
        """
        problems, candidates, horizon, _ = actions.shape
        if problems != self.rollout.rows:
            raise ValueError(f"{problems} problems for {self.rollout.rows} rows; give one each")
        rows = np.repeat(np.arange(problems), candidates)
        imagined = self.rollout.fork(rows.tolist())
        found = []
        for step in range(horizon):
            latents = imagined.step(actions[:, :, step].reshape(problems * candidates, -1))
            if self.reduce == "mean" or step == horizon - 1:
                found.append(self.score(latents, rows))
        return torch.stack(found).mean(0).reshape(problems, candidates).float()


def reward_score(
    reward: RewardModel, goals: Sequence[Goal], kind: Literal["success", "distance"] = "distance"
) -> LatentScore:
    """The reward model as a score: probability of success, or minus the distance in metres.

    Args:
        reward: the world model's.
        goals: goal of each problem.
        kind: the distance leads from afar, success says when it is reached.
    """

    def score(latents: Tensor, rows: np.ndarray) -> Tensor:
        wanted = [goals[row] for row in rows]
        if kind == "success":
            return reward.probability(latents, wanted)
        return -reward.distance(latents, wanted)

    return score
