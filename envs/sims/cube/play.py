"""Behaviours of Cube that do no task: random play and near misses, for data with variety."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wm_gym.envs.sims.cube.expert import (
    ACTION_LIMIT,
    Expert,
    oracle_info,
    seeded_globally,
)
from wm_gym.envs.sims.cube.layout import CUBES_WITHIN_M
from wm_gym.envs.sims.cube.state import CUBE_HALF_M, CubeState
from wm_gym.envs.sims.cube.tasks import CubeGoal, on_top
from wm_gym.envs.sims.scripted import HasPrivilegedState, limit, read_state

CONTROL_S = 0.1
_MODES = ("carry", "visit", "wander", "dash")
_MODE_ODDS = (0.5, 0.2, 0.2, 0.1)
_STACK_ODDS = 0.5
_SEGMENT_S = (0.5, 0.9)  # between two points of a plan; OGBench's own at 20 Hz is 0.4


class RandomPlay:
    """Cubes are carried about, visited and pushed; nothing has to succeed.

    Pieces follow each other: `carry`, OGBench's planning oracle, which puts a random cube somewhere
    or on another one by a plan with correlated noise that it follows blindly; `visit`, at a low
    height towards a cube and on through it; `wander`, an Ornstein-Uhlenbeck speed; `dash`, one
    action from the whole range, repeated.
    """

    def reset(
        self, goal: CubeGoal | None, rng: np.random.Generator, objects: tuple[str, ...]
    ) -> None:
        """Starts an episode; the goal does not matter, the generator draws everything."""
        del goal
        self.rng, self._cubes = rng, len(objects)
        self._steps = self._left = 0
        self._drift = np.zeros(5)

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (5,) float32, for an environment or a privileged state."""
        state = CubeState.from_array(read_state(source))
        if self._left <= 0:
            self._begin(state)
        self._left -= 1
        self._drift = 0.75 * self._drift + self.rng.normal(0.0, 0.3 * ACTION_LIMIT)
        action = self._action_of_piece(state)
        self._steps += 1
        return np.clip(action, -ACTION_LIMIT, ACTION_LIMIT).astype(np.float32)

    def _action_of_piece(self, state: CubeState) -> np.ndarray:
        if self._mode == "carry":
            info = oracle_info(state, *self._place, time_s=CONTROL_S * self._steps)
            action = self._oracle.select_action(None, info) * ACTION_LIMIT
            self._left = 0 if self._oracle.done else 1
            return action
        if self._mode == "visit":
            way = state.cubes_m[self._cube] - state.hand_m
            aside = float(np.linalg.norm(way[:2]))
            if self._ahead is None or aside > 0.06:
                self._ahead = way[:2] / max(aside, 1e-9)  # kept near it: goes on through it
            down = self._height_m - state.hand_m[2]
            move = limit(np.append(self._pace_m * self._ahead, down), ACTION_LIMIT[0])
            return np.concatenate([move, 0.3 * self._drift[3:4], [self._grip]])
        return self._drift if self._mode == "wander" else self._dash

    def _begin(self, state: CubeState) -> None:
        """Draws the next piece."""
        rng = self.rng
        self._mode = str(rng.choice(_MODES, p=_MODE_ODDS))
        self._left = int(rng.integers(4, 13))
        self._cube = int(rng.integers(self._cubes))
        self._dash = rng.uniform(-ACTION_LIMIT, ACTION_LIMIT)
        self._grip = float(rng.choice([-1.0, 0.0, 1.0]))
        self._height_m = float(rng.uniform(0.02, 0.06))
        self._pace_m = ACTION_LIMIT[0] * rng.uniform(0.4, 1.0)
        self._ahead: np.ndarray | None = None
        if self._mode == "carry":
            self._plan(state)

    def _plan(self, state: CubeState) -> None:
        """Lets the package's oracle plan where to put a cube that nothing lies on."""
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

        from wm_gym.envs.sims.cube.ogbench import cube_scene

        rng = self.rng
        free = np.flatnonzero(~on_top(state).any(axis=-2))
        self._cube = int(rng.choice(free)) if len(free) else self._cube
        others = [k for k in free if k != self._cube]
        if others and rng.random() < _STACK_ODDS:
            place = state.cubes_m[rng.choice(others)] + [0.0, 0.0, 2 * CUBE_HALF_M]
        else:
            place = np.append(rng.uniform(*CUBES_WITHIN_M), CUBE_HALF_M)
        self._place = (self._cube, place, float(rng.uniform(-np.pi, np.pi)))
        self._oracle = CubePlanOracle(
            env=cube_scene(self._cubes),
            segment_dt=rng.uniform(*_SEGMENT_S),
            noise=rng.uniform(0.0, 0.2),
        )
        info = oracle_info(state, *self._place, time_s=CONTROL_S * self._steps)
        with seeded_globally(rng):
            self._oracle.reset(None, info)


class NearMiss(Expert):
    """Almost does the task, again and again, each time in one of two ways.

    `empty`: grasps beside the first cube, 7 to 10 cm from its centre. `beside`, for stack only:
    brings it to 3 to 7 cm from where it belongs. Each lasts 25 to 50 steps.
    """

    KINDS = ("empty", "beside")

    def reset(self, goal: CubeGoal, rng: np.random.Generator, objects: tuple[str, ...]) -> None:
        """Starts an episode.

        Args:
            goal: what is to be missed.
            rng: draws the ways of missing and the pace.
            objects: names of the cubes, in the state's order.
        """
        super().reset(goal, rng, objects)
        self._begin()

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (5,) float32, for an environment or a privileged state."""
        if self._left <= 0:
            self._begin()
        self._left -= 1
        return super().act(source)

    def _begin(self) -> None:
        """Draws the next miss."""
        stack = self.second is not None
        self.kind = str(self.rng.choice(self.KINDS)) if stack else "empty"
        self._left = int(self.rng.integers(25, 51))
        near, far = (0.07, 0.1) if self.kind == "empty" else (0.03, 0.07)
        angle, length = self.rng.uniform(-np.pi, np.pi), self.rng.uniform(near, far)
        self._aside_m = length * np.array([np.cos(angle), np.sin(angle), 0.0])

    def seen(self, state: CubeState) -> CubeState:
        """The state, the first cube aside from where it is if the hand shall miss it."""
        if self.kind != "empty":
            return state
        cubes = state.cubes_m.copy()
        cubes[self.first] += self._aside_m
        return replace(state, cubes_m=cubes)

    def target(self, state: CubeState) -> tuple[np.ndarray, float]:
        """Where the first cube shall go: position (3,) in metres, and turn in rad."""
        place, yaw_rad = super().target(state)
        return place + (self._aside_m if self.kind == "beside" else 0.0), yaw_rad
