"""A tiny world for tests: a dot on a line, as simulator and as vector environment."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from wm_gym.policies.base import Policy
from wm_gym.spec import ActionSpec, FrameSpec

CELLS = 20
GOAL_M = 0.8
ACTIONS = ActionSpec(("x",), ("m",), (-0.1,), (0.1,), (10.0,), (0.0,), 1, control_hz=10.0)
FRAMES = FrameSpec(4, CELLS, "top")


class LineEnv(gymnasium.Env):
    """The dot starts at `start`/100 m, by name such as "s30"; the goal is at 0.8 m."""

    def __init__(self, horizon=50):
        self.horizon = horizon
        self.action_space = ACTIONS.space()
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, CELLS, 3), np.uint8)
        self.resets = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        options = options or {}
        self.resets += 1
        self.x = int(options.get("start", "s0")[1:]) / 100
        self.steps = 0
        self.instruction = options.get("instruction") or "reach the end"
        return self.frame(), {"instruction": self.instruction, "is_success": False}

    def frame(self):
        frame = np.zeros((4, CELLS, 3), np.uint8)
        frame[:, min(CELLS - 1, round(self.x * CELLS))] = 255
        return frame

    def step(self, action):
        assert action.shape == (1,)
        self.x = float(np.clip(self.x + np.clip(action[0], -0.1, 0.1), 0, 1))
        self.steps += 1
        success = abs(self.x - GOAL_M) < 0.051
        info = {"instruction": self.instruction, "is_success": success}
        return self.frame(), float(success), success, self.steps >= self.horizon, info


class LineVectorEnv(VectorEnv):
    """Rows of `LineEnv`, with the strictness of `WorldModelVectorEnv`."""

    def __init__(self, rows, horizon=50):
        self.num_envs = rows
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.envs = [LineEnv(horizon) for _ in range(rows)]
        self.single_action_space = ACTIONS.space()
        self.ended = [True] * rows
        self.stepped = 0

    def reset(self, *, seed=None, options=None):
        options = dict(options or {})
        mask = options.pop("reset_mask")
        assert all(not begun or mask[row] for row, begun in enumerate(self.ended))
        infos = {}
        for row in np.flatnonzero(mask):
            _, info = self.envs[row].reset(
                seed=seed[row], options={k: v[row] for k, v in options.items()}
            )
            self.ended[row] = False
            infos = self._add_info(infos, info, row)
        return np.stack([env.frame() for env in self.envs]), infos

    def step(self, actions):
        assert not any(self.ended), "an ended row was not reset"
        self.stepped += 1
        infos, results = {}, []
        for row, env in enumerate(self.envs):
            *result, info = env.step(actions[row])
            results.append(result)
            self.ended[row] = bool(result[2] or result[3])
            infos = self._add_info(infos, info, row)
        frames, rewards, terminated, truncated = map(np.array, zip(*results, strict=True))
        return frames, rewards, terminated, truncated, infos


class Walker(Policy):
    """Walks right by what it sees, n steps at a time; a fault can be planted by row."""

    def __init__(self, pace_m=0.1, chunk=2, spec=ACTIONS, frame=FRAMES):
        super().__init__(spec, frame)
        self.pace_m, self.chunk = pace_m, chunk
        self.asked = []

    def act(self, observation):
        self.asked.append(tuple(observation.rows))
        return np.full((len(observation), self.chunk, 1), self.pace_m)
