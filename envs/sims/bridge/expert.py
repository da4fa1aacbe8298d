"""Scripted experts of BridgeSim: they read the privileged state, so they run only in simulation."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.bridge.objects import THINGS
from wm_gym.envs.sims.bridge.state import BridgeState, ThingState
from wm_gym.envs.sims.bridge.tasks import BridgeGoal, is_success, target_point
from wm_gym.envs.sims.rotations import DOWN, wrapped
from wm_gym.envs.sims.scripted import HasPrivilegedState, noisy, read_state

MOVE_LIMIT_M = 0.05
TURN_LIMIT_RAD = 0.25
ACTION_LOW = np.array([-MOVE_LIMIT_M] * 3 + [-TURN_LIMIT_RAD] * 3 + [0.0])
ACTION_HIGH = np.array([MOVE_LIMIT_M] * 3 + [TURN_LIMIT_RAD] * 3 + [1.0])

LOWEST_M = 0.014  # of the point between the finger tips
_ABOVE_M = 0.065  # the hand waits this far above what it will grasp
_CARRY_M = 0.105  # height of the hand while it carries
_LOST_M = 0.045  # a thing this far from the hand is not held


def grasp_point(thing: ThingState, name: str) -> np.ndarray:
    """Returns where the fingers close on a thing, (3,) metres."""
    shape = THINGS[name]
    point = thing.position_m + thing.rotation @ np.array([shape.grasp_x_m, 0.0, 0.0])
    point[2] = max(point[2], LOWEST_M)
    return point


def hand_yaw(state: BridgeState) -> float:
    """Returns the direction in which the fingers open, seen from above, in rad."""
    across = state.hand_rotation[:, 1]
    return float(np.arctan2(across[1], across[0]))


class Expert:
    """Grasps the first thing and puts it in its place on or in the second one.

    It goes on from what it sees: what slips out of the hand, or lands elsewhere, is grasped again.
    """

    def reset(self, goal: BridgeGoal, rng: np.random.Generator, objects: tuple[str, ...]) -> None:
        """Starts an episode.

        Args:
            goal: what is to be done.
            rng: draws the pace of this episode.
            objects: names of what lies on the table, not needed here.
        """
        del objects
        self.goal, self.rng = goal, rng
        self.first, self.second = goal.place.first, goal.place.second
        self._travel_m = MOVE_LIMIT_M * rng.uniform(0.65, 1.0)
        self._near_m = MOVE_LIMIT_M * rng.uniform(0.45, 0.8)
        self._carry_m = _CARRY_M + rng.uniform(0.0, 0.03)
        self.enter("approach")

    def enter(self, stage: str) -> None:
        """Begins a stage of the work."""
        self.stage, self._steps = stage, 0

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (7,) float32, for an environment or a privileged state."""
        flat = read_state(source)
        state = BridgeState.from_array(flat)
        action = None
        while action is None:  # a stage that is over passes on to the next one
            action = getattr(self, f"_{self.stage}")(state, flat)
        self._steps += 1
        return np.clip(action, ACTION_LOW, ACTION_HIGH).astype(np.float32)

    def target(self, state: BridgeState) -> np.ndarray:
        """Where the first thing's origin shall be when the hand lets go, (3,) metres."""
        return target_point(state, self.goal.place)

    def _approach(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        point = grasp_point(state.things[0], self.first)
        point[2] += _ABOVE_M
        turn = self._turn_to_grasp(state)
        aside = np.linalg.norm((point - state.hand_m)[:2])
        slack = self._slack()
        near = aside < 0.006 * slack and state.hand_m[2] < point[2] + 0.015 * slack
        if near and abs(turn) < 0.08 * slack:
            self.enter("descend")
            return None
        return self._move(state, point, turn, 1.0, self._travel_m)

    def _descend(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        point = grasp_point(state.things[0], self.first)
        gap = point - state.hand_m
        if np.linalg.norm(gap[:2]) > 0.025:  # it has rolled away
            self.enter("approach")
            return None
        if abs(gap[2]) < 0.005 * self._slack():
            self.enter("grasp")
            return None
        return self._move(state, point, self._turn_to_grasp(state), 1.0, self._near_m)

    def _grasp(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        if self._steps >= 2:
            self.enter("lift")
            return None
        return np.zeros(7)

    def _lift(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        if self._lost(state):
            return None
        if state.hand_m[2] > self._carry_m - 0.02:
            self.enter("carry")
            return None
        point = state.hand_m.copy()
        point[2] = self._carry_m
        return self._move(state, point, 0.0, 0.0, self._near_m)

    def _carry(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        if self._lost(state):
            return None
        aside = (self.target(state) - state.things[0].position_m)[:2]
        turn = self._turn_to_place(state)
        slack = self._slack()
        if np.linalg.norm(aside) < 0.006 * slack and abs(turn) < 0.1 * slack:
            self.enter("lower")
            return None
        point = np.append(state.hand_m[:2] + aside, self._carry_m)
        return self._move(state, point, turn, 0.0, self._travel_m)

    def _lower(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        if self._lost(state):
            return None
        gap = self.target(state) - state.things[0].position_m
        gap[2] += 0.005 + self._drop_m()
        lowest = state.hand_m[2] < LOWEST_M + 0.003
        if gap[2] > -0.004 or lowest:
            self.enter("release")
            return None
        return self._move(state, state.hand_m + gap, 0.0, 0.0, self._near_m)

    def _release(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        if self._steps >= 2:
            self.enter("retreat")
            return None
        return np.array([0.0] * 6 + [1.0])

    def _retreat(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        if state.hand_m[2] > self._carry_m + 0.02:
            self.enter("done")
            return None
        point = state.hand_m.copy()
        point[2] = self._carry_m + 0.045
        return self._move(state, point, 0.0, 1.0, self._near_m)

    def _done(self, state: BridgeState, flat: np.ndarray) -> np.ndarray | None:
        if not is_success(flat, self.goal):
            self.enter("approach")
        return np.array([0.0] * 6 + [1.0])

    def _slack(self) -> float:
        """By how much tolerances have widened: a trembling hand would wait for ever otherwise."""
        return 1.0 + 0.35 * min(max(0, self._steps - 5), 7)

    def _lost(self, state: BridgeState) -> bool:
        """Whether the thing is no longer in the hand; then everything begins anew."""
        grasp = grasp_point(state.things[0], self.first)
        if np.linalg.norm(grasp - state.hand_m) < _LOST_M:
            return False
        self.enter("release")
        return True

    def _drop_m(self) -> float:
        """How far above its place the thing is let go: the hand does not fit into the basket."""
        return 0.022 if self.second == "basket" else 0.0

    def _turn_to_grasp(self, state: BridgeState) -> float:
        thing = state.things[0]
        wanted = thing.yaw_rad + np.pi / 2  # the fingers open across its length
        return wrapped(wanted - hand_yaw(state), 2 * np.pi / THINGS[self.first].turns)

    def _turn_to_place(self, state: BridgeState) -> float:
        if self.second not in ("basket", "yellow block"):
            return 0.0
        first, second = state.things[:2]
        return wrapped(second.yaw_rad - first.yaw_rad, 2 * np.pi / THINGS[self.first].turns)

    def _move(
        self, state: BridgeState, point: np.ndarray, turn: float, opening: float, length_m: float
    ) -> np.ndarray:
        """The action towards a point, the hand upright and turned by an angle."""
        way = point - state.hand_m
        length = float(np.linalg.norm(way))
        way = way * min(1.0, length_m / max(length, 1e-9))
        upright = np.cross(state.hand_rotation[:, 0], DOWN)
        turns = 0.7 * upright + np.array([0.0, 0.0, turn])
        return np.concatenate([way, turns, [opening]])


class NoisyExpert(Expert):
    """An expert whose hand trembles.

    Args:
        noise: standard deviation of what is added to each action, as a fraction of the largest
            way and turn; the gripper's is a third of it.
    """

    def __init__(self, noise: float) -> None:
        self._deviation = noise * np.array([MOVE_LIMIT_M] * 3 + [TURN_LIMIT_RAD] * 3 + [1 / 3])

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (7,) float32, for an environment or a privileged state."""
        return noisy(super().act(source), self.rng, self._deviation, ACTION_LOW, ACTION_HIGH)
