"""A reward whose verdicts are written in advance."""

from collections.abc import Sequence

import numpy as np

from wm_gym.envs.rewards import Reward, Scores


class ScriptedReward(Reward):
    """Success of every judged row from its n-th judgement on.

    Args:
        success_at: the n-th call of `judge` is the first that sees success.
        judged_at_horizon: see `Reward`.
        rows: with several rows, the only ones that may succeed; all by default.
    """

    name = "scripted"
    needs_goal = False

    def __init__(
        self,
        success_at: int = 99,
        judged_at_horizon: bool = False,
        rows: Sequence[int] | None = None,
    ) -> None:
        self.success_at = success_at
        self.judged_at_horizon = judged_at_horizon
        self.rows = rows
        self.calls = 0

    def score(self, seen, goals, recent=None) -> Scores:
        self.calls += 1
        count = len(seen.latents)
        success = np.full(count, self.calls >= self.success_at)
        if self.rows is not None:
            success &= np.isin(np.arange(count), self.rows)
        text = [f"call {self.calls}"] * count
        return Scores(success.astype(float), success, np.full(count, np.nan), text)

    def value(self, scores, previous_m) -> np.ndarray:
        return scores.success.astype(float)
