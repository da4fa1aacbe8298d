"""Behaviours of BridgeSim that do no task: random play and near misses, for data with variety."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wm_gym.envs.sims.bridge.expert import (
    ACTION_HIGH,
    ACTION_LOW,
    LOWEST_M,
    MOVE_LIMIT_M,
    TURN_LIMIT_RAD,
    Expert,
    hand_yaw,
)
from wm_gym.envs.sims.bridge.layout import TASK_AREA_M
from wm_gym.envs.sims.bridge.objects import THINGS
from wm_gym.envs.sims.bridge.state import BridgeState
from wm_gym.envs.sims.bridge.tasks import BridgeGoal
from wm_gym.envs.sims.rotations import DOWN, wrapped
from wm_gym.envs.sims.scripted import HasPrivilegedState, limit, read_state

_MODES = ("visit", "grab", "wander", "dash", "still")
_MODE_ODDS = (0.3, 0.3, 0.2, 0.12, 0.08)
_HIGHEST_M = 0.18


class RandomPlay:
    """Motions that hang together in time, often hit things and sometimes lift them.

    Pieces of 3 to 15 steps follow each other: visit a thing and go on through it, grab at one and
    take it along, wander (an Ornstein-Uhlenbeck speed), dash (one action from the whole range,
    repeated) and stand still. Turns come and go with the same kind of drift.
    """

    def reset(
        self, goal: BridgeGoal | None, rng: np.random.Generator, objects: tuple[str, ...]
    ) -> None:
        """Starts an episode; goal and objects do not matter, the generator draws everything."""
        del goal, objects
        self.rng = rng
        self._left = 0
        self._drift, self._spin = np.zeros(3), np.zeros(3)
        self._opening = 1.0

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (7,) float32, for an environment or a privileged state."""
        state = BridgeState.from_array(read_state(source))
        if self._left <= 0:
            self._begin(state)
        self._left -= 1
        self._drift = 0.75 * self._drift + self.rng.normal(0.0, 0.010, 3)
        upright = np.cross(state.hand_rotation[:, 0], DOWN)
        spread = TURN_LIMIT_RAD * np.array([0.14, 0.14, 0.3])
        self._spin = 0.7 * self._spin + self.rng.normal(0.0, spread) + 0.08 * upright
        way = self._way(state)
        height = state.hand_m[2] + way[2]
        if height < LOWEST_M or height > _HIGHEST_M:
            way[2] = np.clip(height, LOWEST_M, _HIGHEST_M) - state.hand_m[2]
            self._drift[2] *= -1
        turn = self._action[3:6] if self._mode == "dash" else self._spin.copy()
        if self._mode == "grab" and not self._grabbed:  # across the thing, or it slips away
            wanted = state.things[self._thing].yaw_rad + np.pi / 2
            turn[2] = 0.7 * wrapped(wanted - hand_yaw(state), np.pi)
        if self._mode == "still":
            way, turn = np.zeros(3), np.zeros(3)
        action = np.concatenate([way, turn, [self._opening]])
        return np.clip(action, ACTION_LOW, ACTION_HIGH).astype(np.float32)

    def _begin(self, state: BridgeState) -> None:
        """Draws the next piece."""
        self._mode = str(self.rng.choice(_MODES, p=_MODE_ODDS))
        self._left = int(self.rng.integers(3, 16))
        self._thing = int(self.rng.integers(len(state.things)))
        self._pace_m = MOVE_LIMIT_M * self.rng.uniform(0.3, 1.2)
        self._action = self.rng.uniform(ACTION_LOW, ACTION_HIGH)
        self._ahead: np.ndarray | None = None
        self._height_m = float(self.rng.uniform(LOWEST_M, 0.05))
        self._grabbed = False
        if self._mode != "grab" and self.rng.random() < 0.4:
            self._opening = float(self.rng.choice([0.0, 1.0, self.rng.random()]))
        elif self._mode == "grab":
            self._opening, self._left = 1.0, int(self.rng.integers(9, 19))

    def _way(self, state: BridgeState) -> np.ndarray:
        """The hand's way (3,) in metres, not yet limited."""
        if self._mode == "wander":
            return 1.5 * self._drift
        if self._mode == "dash":
            return self._action[:3].copy()
        to_thing = state.things[self._thing].position_m - state.hand_m
        aside = float(np.linalg.norm(to_thing[:2]))
        if self._mode == "visit":
            if self._ahead is None or aside > 0.05:
                self._ahead = to_thing[:2] / max(aside, 1e-9)  # kept near it: goes on through it
            down = np.clip(self._height_m - state.hand_m[2], -MOVE_LIMIT_M, MOVE_LIMIT_M)
            return np.append(self._pace_m * self._ahead, down) + 0.3 * self._drift
        if self._grabbed:
            return np.append(1.5 * self._drift[:2], 0.9 * self._pace_m)
        if aside > 0.02:
            to_thing[2] = max(to_thing[2] + 0.06, LOWEST_M - state.hand_m[2])
            return limit(to_thing, self._pace_m)
        to_thing[2] = max(to_thing[2], LOWEST_M - state.hand_m[2])
        if to_thing[2] > -0.012:
            self._grabbed, self._opening = True, 0.0
        return limit(to_thing, self._pace_m)


class NearMiss(Expert):
    """Almost does the task, again and again, each time in one of three ways.

    `hold`: carries the thing to its place, stays 1.5 to 6 cm above it for a while, hand closed,
    and then puts it down beside. `beside`: lets go of it up to 3 cm beside its place. `empty`:
    closes the hand beside the thing and does the rest without it.
    """

    KINDS = ("hold", "beside", "empty")
    ODDS = (0.4, 0.4, 0.2)

    def reset(self, goal: BridgeGoal, rng: np.random.Generator, objects: tuple[str, ...]) -> None:
        """Starts an episode.

        Args:
            goal: what is to be missed.
            rng: draws the way of missing, margins and the pace.
            objects: names of what lies on the table, not needed here.
        """
        super().reset(goal, rng, objects)
        self._begin()

    def _begin(self) -> None:
        """Draws the next miss."""
        rng = self.rng
        self.kind = str(rng.choice(self.KINDS, p=self.ODDS))
        self._above_m = float(rng.uniform(0.015, 0.06))
        self._patience = int(rng.integers(8, 26))
        self._margin_m = float(rng.uniform(0.0, 0.03))
        self._beside: np.ndarray | None = None
        self._side = float(rng.choice([-1.0, 1.0]))
        self._along_m = float(rng.uniform(-0.012, 0.012))
        self._sway = np.zeros(3)
        self.enter("approach")

    def target(self, state: BridgeState) -> np.ndarray:
        """Where the first thing is brought: above its place, or beside it; (3,) metres."""
        place = super().target(state)
        if self.kind == "beside":
            if self._beside is None:
                self._beside = self._draw_beside(state)
            place[:2] = self._beside
            place[2] = THINGS[self.first].rest_z_m
        return place

    def _draw_beside(self, state: BridgeState) -> np.ndarray:
        """A point beside the second thing, (2,) metres, over the table."""
        first, second = THINGS[self.first], THINGS[self.second]
        centre = state.things[1].position_m[:2]
        # past the rim by half the first thing's width, so that it cannot come to rest inside
        far = second.radius_m + 1.2 * first.rest_z_m + self._margin_m
        angles = self.rng.permutation(np.linspace(-np.pi, np.pi, 24, endpoint=False))
        points = centre + far * np.stack([np.cos(angles), np.sin(angles)], 1)
        low, high = TASK_AREA_M + np.array([[-0.02, -0.03], [0.02, 0.03]])
        inside = (points > low).all(1) & (points < high).all(1)
        return points[inside][0] if inside.any() else np.clip(points[0], low, high)

    def _approach(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        return super()._approach(self._misplaced(state), flat)

    def _descend(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        return super()._descend(self._misplaced(state), flat)

    def _misplaced(self, state: BridgeState) -> BridgeState:
        """What an `empty` hand aims at: a place one hand's width beside the thing."""
        if self.kind != "empty":
            return state
        first = state.things[0]
        aside_m = self._side * (0.055 + THINGS[self.first].rest_z_m)
        offset = first.rotation @ np.array([self._along_m, aside_m, 0.0])
        moved = replace(first, position_m=first.position_m + offset)
        return replace(state, things=(moved, *state.things[1:]))

    def _carry(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        if self.kind != "empty":
            return super()._carry(state, flat)
        aside = (self.target(state) - state.hand_m)[:2]
        if np.linalg.norm(aside) < 0.01 * self._slack():
            self.enter("lower")
            return None
        point = np.append(state.hand_m[:2] + aside, self._carry_m)
        return self._move(state, point, 0.0, 0.0, self._travel_m)

    def _lower(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        if self.kind == "beside":
            return super()._lower(state, flat)
        thing = state.hand_m if self.kind == "empty" else state.things[0].position_m
        if self.kind == "hold" and self._lost(state):
            return None
        gap = self.target(state) - thing
        gap[2] += self._above_m
        if self.kind == "empty" and gap[2] > -0.005:
            self.enter("release")
            return None
        if self.kind == "hold" and self._steps > self._patience:
            self.kind = "beside"
            self.enter("carry")
            return None
        self._sway = 0.6 * self._sway + self.rng.normal(0.0, 0.0015, 3)
        return self._move(state, state.hand_m + gap + self._sway, 0.0, 0.0, self._near_m)

    def _done(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        if self._steps > 3:
            self._begin()
        return np.array([0.0] * 6 + [1.0])

    def _lost(self, state: BridgeState) -> bool:
        return self.kind != "empty" and super()._lost(state)
