"""Multi-step tasks of LangTable: two pushes in one episode (Table 3 of arXiv:2510.19818)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.envs.sims.langtable.layout import PUSH_START_M, sample_start
from wm_gym.envs.sims.langtable.tasks import Goal, is_success, parse_instruction, task_distance
from wm_gym.errors import UserError
from wm_gym.semantic.tasks import LANGTABLE_MULTI_STEP


class LangTableMultiStep(gymnasium.Wrapper):
    """LangTable with `MS1` to `MS4` as instructions.

    A start has all pairs of blocks at least 0.11 m apart, as the start of a single push has. The
    episode succeeds, and terminates, when every pair is together at the same time: a pair that was
    together and is pushed apart again does not count. `info["distance"]` is the mean over pairs.

    Example:
        >>> env = LangTableMultiStep(obs="state")
        >>> observation, info = env.reset(seed=0, options={"instruction": "MS1"})
        >>> info["instruction"], info["is_success"]
        ('MS1', False)

    Args:
        **settings: of `LangTableEnv`; its task and `terminate_on_success` are decided here.
    """

    def __init__(self, **settings: Any) -> None:
        self.langtable = LangTableEnv(task="push", terminate_on_success=False, **settings)
        super().__init__(self.langtable)
        self.words = next(iter(LANGTABLE_MULTI_STEP))
        self.goals: tuple[Goal, ...] = ()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode.

        Args:
            seed: seeds the draw of the start.
            options: `instruction`, `MS1` to `MS4`; the last one, or `MS1`, by default.

        Raises:
            ValueError: for other options or instructions.
        """
        words = (options or {}).get("instruction", self.words)
        if set(options or {}) - {"instruction"} or words not in LANGTABLE_MULTI_STEP:
            raise UserError(
                f"options {options} are not understood; expected 'instruction', one of "
                f"{', '.join(LANGTABLE_MULTI_STEP)}"
            )
        env = self.langtable
        steps = LANGTABLE_MULTI_STEP[words].subgoals
        self.words = words
        self.goals = tuple(parse_instruction(step.name, env.objects) for step in steps)
        env.reset(seed=seed, options={"instruction": self.goals[0].instruction})
        while True:
            positions = sample_start(self.goals[0], env.objects, env.np_random)
            if all(task_distance(positions, g, env.objects) >= PUSH_START_M for g in self.goals):
                break
        start = {**env.get_state(), "positions": positions}
        observation, info = env.reset(options={"state": start})
        return observation, self._told(info)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the simulator; the reward is 1 when all pairs are together."""
        observation, _, _, truncated, info = self.langtable.step(action)
        info = self._told(info)
        done = info["is_success"]
        return observation, float(done), done, truncated and not done, info

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        state, objects = self.langtable.privileged_state(), self.langtable.objects
        distances = [task_distance(state, goal, objects) for goal in self.goals]
        done = all(is_success(state, goal, objects) for goal in self.goals)
        return {
            **info,
            "instruction": self.words,
            "task": "multi-step",
            "is_success": done,
            "distance": float(np.mean(distances)),
        }
