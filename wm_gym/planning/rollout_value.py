"""The value of action sequences in a latent world model: imagined under common noise, scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wm_gym.dynamics.rollout import Rollout
from wm_gym.errors import UserError
from wm_gym.instructions import Goal
from wm_gym.judges.success_classifier import RewardModel

LatentScore = Callable[[Tensor, np.ndarray], Tensor]
"""Scores (R,) of normalised latents (R, h, w, D), given which problem each row is of, (R,)."""


class RolloutValue:
    """Value function for MPPI and CEM: forks a rollout, so the dream itself stays where it is.

    Candidates of a problem meet the same noise, that of its own row: their values differ by their
    actions alone. There is no gradient.

    Args:
        rollout: B rows, at the state to plan from. Its `micro_batch` bounds the candidates that are
            imagined, and held in memory, at once.
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
            raise UserError(f"{problems} problems for {self.rollout.rows} rows; give one each")
        rows = np.repeat(np.arange(problems), candidates)
        flat = actions.reshape(problems * candidates, horizon, -1)
        parts = candidate_batches(problems, candidates, self.rollout.micro_batch)
        found = [self._imagine(rows[part], flat[part]) for part in parts]
        return torch.cat(found).reshape(problems, candidates).float()

    def _imagine(self, rows: np.ndarray, actions: Tensor) -> Tensor:
        """Values (R,) of actions (R, n, A) from the rollout's rows (R,)."""
        imagined = self.rollout.fork(rows.tolist())
        found = []
        for step, action in enumerate(actions.unbind(1), start=1):
            latents = imagined.step(action)
            if self.reduce == "mean" or step == actions.shape[1]:
                found.append(self.score(latents, rows))
        return torch.stack(found).mean(0)


def candidate_batches(problems: int, candidates: int, most: int | None) -> list[slice]:
    """Slices of `problems * candidates` rows that are imagined one after the other.

    A batch holds candidates of one problem, or all of several problems, so that its rows share
    their context; what its candidates store is freed before the next begins.

    Args:
        problems: problems B.
        candidates: candidates K of each.
        most: rows of a batch; None for all at once.
    """
    total = problems * candidates
    if most is None or most >= total:
        return [slice(0, total)]
    if most >= candidates:
        size = most // candidates * candidates
        return [slice(start, min(start + size, total)) for start in range(0, total, size)]
    return [
        slice(first + start, first + min(start + most, candidates))
        for first in range(0, total, candidates)
        for start in range(0, candidates, most)
    ]


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
