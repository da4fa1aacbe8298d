"""A base policy that fails as often as one likes: LangTable's scripted expert with action noise.

Planners of semantic world models start from what a base policy proposes (arXiv:2510.19818, 3.3.2).
Here that is the expert of the simulator, trembling; it stands in for a policy trained on few
episodes, and its noise decides how good it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from scipy.signal import lfilter

from wm_gym.domains import LANGTABLE
from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.envs.sims.langtable.expert import ACTION_LIMIT_M, Expert
from wm_gym.envs.sims.langtable.tasks import Goal, is_success, parse_instruction
from wm_gym.policies.base import Observation, Policy
from wm_gym.semantic.tasks import LANGTABLE_MULTI_STEP


def goals_of(instruction: str, objects: tuple[str, ...]) -> list[Goal]:
    """The goals of an instruction: one, or those of `MS1` to `MS4` in their order."""
    if instruction in LANGTABLE_MULTI_STEP:
        steps = LANGTABLE_MULTI_STEP[instruction].subgoals
        return [parse_instruction(step.name, objects) for step in steps]
    return [parse_instruction(instruction, objects)]


class ExpertProposals(Policy):
    """Proposes what the expert would do from here on if its hand trembled.

    Unlike any other policy it reads the simulators it acts in, so it serves as a base in
    experiments only. A chunk is what the expert does in a copy of the simulator. Noise is a
    function of the row's seed and instruction, the step it is added at, and `number`; the pace
    that the expert draws, of the step of the proposal instead.

    Args:
        envs: the simulators of the runner's rows, wrapped or not.
        noise_m: standard deviation of the noise on every action, metres per axis.
        correlation: of the noise with that of the step before, 0 to below 1. Without any, a noise
            far above the longest action is needed before pushes fail, and nothing is left of what
            the expert means; a policy that learned imperfectly errs the same way for some time.
        chunk: actions it proposes.
        number: which of several proposals; each has noise of its own.
        step: which step of a multi-step instruction it is an expert of, from 0; None is the first
            one that is not done in the simulator.
    """

    def __init__(
        self,
        envs: Sequence[gymnasium.Env],
        noise_m: float,
        *,
        correlation: float = 0.0,
        chunk: int = 16,
        number: int = 0,
        step: int | None = None,
    ) -> None:
        super().__init__(LANGTABLE.action)
        if noise_m < 0 or chunk < 1 or not 0 <= correlation < 1:
            raise ValueError(
                f"noise_m={noise_m} must be at least 0 metres, correlation={correlation} at least "
                f"0 and below 1, and chunk={chunk} at least 1 action"
            )
        self.envs = [_langtable(env) for env in envs]
        self.noise_m, self.correlation = noise_m, correlation
        self.chunk, self.number, self.step = chunk, number, step
        self._copy: LangTableEnv | None = None
        self._seeds: dict[int, tuple[int, int]] = {}
        self._goals: dict[int, list[Goal]] = {}

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes; see `Policy.reset`."""
        for row, seed, instruction in zip(rows, seeds, instructions, strict=True):
            # one seed begins several tasks alike; what happens to them should not be alike too
            self._seeds[int(row)] = int(seed), zlib.crc32(instruction.encode())
            self._goals[int(row)] = goals_of(instruction, self.envs[int(row)].objects)

    def act(self, observation: Observation) -> np.ndarray:
        """The chunk (B, n, 2) of every row, metres."""
        steps = zip(observation.rows, observation.steps, strict=True)
        return np.stack([self._imagine(int(row), int(step)) for row, step in steps])

    def _imagine(self, row: int, step: int) -> np.ndarray:
        env = self.envs[row]
        copy = self._copy_of(env)
        rng = np.random.default_rng([*self._seeds[row], step, self.number])
        expert = Expert()
        expert.reset(self._goal(row), rng, env.objects)
        noise = self._noise(row, step + self.chunk)[step:]
        actions = np.zeros((self.chunk, 2), np.float32)
        for n in range(self.chunk):
            trembling = expert.act(copy) + noise[n]
            actions[n] = np.clip(trembling, -ACTION_LIMIT_M, ACTION_LIMIT_M)
            copy.step(actions[n])
        return actions

    def _noise(self, row: int, steps: int) -> np.ndarray:
        """Noise of an episode's first steps, (steps, 2) metres: an AR(1) process, stationary."""
        rng = np.random.default_rng([*self._seeds[row], self.number])
        drawn = rng.normal(0.0, self.noise_m, (steps + 1, 2))
        kept, fresh = self.correlation, np.sqrt(1 - self.correlation**2)
        # the first value is the past of the process, which so has its lasting variance at once
        noise, _ = lfilter([fresh], [1, -kept], drawn[1:], axis=0, zi=kept * drawn[:1])
        return noise

    def _copy_of(self, env: LangTableEnv) -> LangTableEnv:
        copy = self._copy
        if copy is None or copy.objects != env.objects:
            blocks = ", ".join(env.objects)
            copy = LangTableEnv(blocks=blocks, obs="state", terminate_on_success=False)
            self._copy = copy
        copy.set_state(env.get_state())
        return copy

    def _goal(self, row: int) -> Goal:
        goals, env = self._goals[row], self.envs[row]
        if self.step is not None:
            return goals[self.step]
        state = env.privileged_state()
        left = [goal for goal in goals if not is_success(state, goal, env.objects)]
        return left[0] if left else goals[-1]


def _langtable(env: gymnasium.Env) -> LangTableEnv:
    found: Any = env.unwrapped
    if not isinstance(found, LangTableEnv):
        raise TypeError(f"{env} is no LangTable; the scripted expert acts in that simulator only")
    return found
