"""A tiny simulator whose frame shows the sum of all actions so far: a slip is a wrong picture."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import gymnasium as gym
import numpy as np


class CounterEnv(gym.Env):
    """State: steps taken and the sum of the actions; the frame's pixels spell them out."""

    objects = ("block",)

    def __init__(self):
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
        self.goal = SimpleNamespace(task="count", objects=("block",))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = SimpleNamespace(task=options["task"], objects=("block",))
        self.state = np.array([0.0, *self.np_random.integers(0, 50, 2)])
        return self._frame(), self._info()

    def step(self, action):
        moved = np.rint(np.asarray(action, np.float64) * 10)
        self.state = self.state + np.array([1, *moved])
        return self._frame(), 0.0, False, False, self._info()

    def _frame(self):
        frame = np.zeros((32, 32, 3), np.uint8)
        frame[:] = self.state.astype(np.int64) % 256
        return frame

    def _info(self):
        return {"is_success": bool(self.state[0] >= 5), "instruction": "count the block"}

    def privileged_state(self):
        return self.state.copy()

    def get_state(self):
        return {"state": self.state.copy(), "label": "counter", "steps": np.array(3)}


class RandomCounter:
    def reset(self, goal, rng, objects):
        self.rng = rng

    def act(self, source):
        return (self.rng.integers(-10, 11, 2) / 10).astype(np.float32)


@dataclass(frozen=True)
class CounterFactory:
    def __call__(self):
        return CounterEnv(), {name: (lambda rng: RandomCounter()) for name in ("expert", "random")}
