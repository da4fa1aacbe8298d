"""Behaviours of LangTable that do no task: random play and near misses, for data with variety."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.langtable.expert import ACTION_LIMIT_M, TOUCH_M, Expert
from wm_gym.envs.sims.langtable.shapes import OBJECTS, WORKSPACE_M
from wm_gym.envs.sims.langtable.tasks import (
    PUSH_DISTANCE_M,
    SEPARATE_DISTANCE_M,
    Goal,
    peg_gaps,
    split_state,
)
from wm_gym.envs.sims.scripted import HasPrivilegedState, limit, read_state

_MODES = ("visit", "wander", "dash", "still")
_MODE_ODDS = (0.55, 0.2, 0.15, 0.1)


class RandomPlay:
    """Motions that hang together in time and often hit blocks.

    Pieces of 3 to 15 steps follow each other: visit a block and go on through it, wander (an
    Ornstein-Uhlenbeck speed), dash (one action from the whole range, repeated) and stand still.
    """

    def reset(
        self,
        goal: Goal | None,
        rng: np.random.Generator,
        objects: tuple[str, ...] = OBJECTS,
    ) -> None:
        """Starts an episode; goal and objects do not matter, the generator draws everything."""
        del goal, objects
        self.rng = rng
        self._left = 0
        self._drift = np.zeros(2)

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (2,) float32 metres, for an environment or a privileged state."""
        peg, poses = split_state(read_state(source))
        if self._left <= 0:
            self._mode = str(self.rng.choice(_MODES, p=_MODE_ODDS))
            self._left = int(self.rng.integers(3, 16))
            self._block = int(self.rng.integers(len(poses)))
            self._pace = self.rng.uniform(0.25, 1.4) * ACTION_LIMIT_M
            self._action = self.rng.uniform(-ACTION_LIMIT_M, ACTION_LIMIT_M, 2)
            self._ahead: np.ndarray | None = None
        self._left -= 1
        self._drift = 0.75 * self._drift + self.rng.normal(0.0, 0.006, 2)
        if self._mode == "still":
            way = np.zeros(2)
        elif self._mode == "wander":
            way = 1.5 * self._drift
        elif self._mode == "dash":
            way = self._action
        else:
            to_block = poses[self._block, :2] - peg
            far = float(np.linalg.norm(to_block))
            if self._ahead is None or far > TOUCH_M + 0.02:
                self._ahead = to_block / max(far, 1e-9)  # kept on contact: the push goes through
            way = self._pace * self._ahead + 0.3 * self._drift
        outward = (np.abs(peg + way) > WORKSPACE_M) & (np.sign(way) == np.sign(peg))
        if outward.any():
            self._left = min(self._left, 1)
            self._drift = np.where(outward, -self._drift, self._drift)
        return np.clip(way, -ACTION_LIMIT_M, ACTION_LIMIT_M).astype(np.float32)


class NearMiss:
    """Almost does the task, again and again, each time by another margin.

    Reach: stops 3 to 12 mm before the block, then stays or slides by. Push: stops when the blocks
    are 5 to 25 mm too far apart, or pushes past the other block. Separate: stops 4 to 20 mm
    short. After each miss the peg moves off.
    """

    def reset(
        self, goal: Goal, rng: np.random.Generator, objects: tuple[str, ...] = OBJECTS
    ) -> None:
        """Starts an episode.

        Args:
            goal: what is to be missed.
            rng: draws margins, sides and pauses.
            objects: the blocks on the table, in the order of the state.
        """
        self.goal, self.rng, self.objects = goal, rng, objects
        self._expert = Expert()
        self._begin()

    def _begin(self) -> None:
        self._expert.reset(self.goal, self.rng, self.objects)
        self._after: list[np.ndarray] | None = None
        self._past: np.ndarray | None = None
        self._go_past = self.goal.task == "push" and self.rng.random() < 0.4
        low, high = {"reach": (0.003, 0.012), "push": (0.005, 0.025), "separate": (0.004, 0.02)}[
            self.goal.task
        ]
        self._margin_m = self.rng.uniform(low, high)

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (2,) float32 metres, for an environment or a privileged state."""
        state = read_state(source)
        if self._after is not None:
            if self._after:
                return self._after.pop(0)
            self._begin()
        way = self._approach(state)
        if way is None:
            self._after = self._aftermath(state)
            return self._after.pop(0)
        return np.clip(way, -ACTION_LIMIT_M, ACTION_LIMIT_M).astype(np.float32)

    def _approach(self, state: np.ndarray) -> np.ndarray | None:
        """The next way towards the miss, or None once it is reached."""
        peg, poses = split_state(state)
        first = self.objects.index(self.goal.first)
        if self.goal.task == "reach":
            gap = float(peg_gaps(state, self.objects)[first])
            if gap < self._margin_m + 0.001:
                return None
            way = self._expert.act(state).astype(np.float64)
            return limit(way, max(gap - self._margin_m, 0.0005)) if gap < 0.06 else way
        assert self.goal.second is not None
        second = self.objects.index(self.goal.second)
        apart = poses[first, :2] - poses[second, :2]
        far = float(np.linalg.norm(apart))
        if self._go_past:
            return self._push_past(peg, poses, first, second)
        if self.goal.task == "push":
            left = far - PUSH_DISTANCE_M - self._margin_m
        else:
            left = SEPARATE_DISTANCE_M - self._margin_m - far
        if left < 0.0015:
            return None
        way = self._expert.act(state).astype(np.float64)
        return limit(way, max(left, 0.001)) if left < ACTION_LIMIT_M else way

    def _push_past(
        self, peg: np.ndarray, poses: np.ndarray, first: int, second: int
    ) -> np.ndarray | None:
        here, there = poses[first, :2], poses[second, :2]
        past = self._past
        if past is None:
            ahead = (there - here) / max(float(np.linalg.norm(there - here)), 1e-9)
            side = np.array([-ahead[1], ahead[0]]) * self.rng.choice([-1.0, 1.0])
            beside = there + side * (PUSH_DISTANCE_M + 0.015 + self._margin_m)
            self._past = past = np.clip(beside + 0.03 * ahead, -0.15, 0.15)
            self._patience = 40
        self._patience -= 1
        left = float(np.linalg.norm(here - there)) - PUSH_DISTANCE_M - 0.003
        if left < 0.001 or self._patience < 0 or np.linalg.norm(here - past) < 0.01:
            return None
        way = self._expert.push(peg, poses[:, :2], first, past)
        return limit(way, max(left, 0.001))

    def _aftermath(self, state: np.ndarray) -> list[np.ndarray]:
        """What follows a miss: stay, or for reach slide by, then move off."""
        peg, poses = split_state(state)
        named = poses[[self.objects.index(name) for name in self.goal.objects], :2]
        away = peg - named[np.linalg.norm(named - peg, axis=1).argmin()]
        away /= max(float(np.linalg.norm(away)), 1e-9)
        still = [np.zeros(2)] * int(self.rng.integers(1, 8))
        if self.goal.task == "reach" and self.rng.random() < 0.4:
            side = np.array([-away[1], away[0]]) * self.rng.choice([-1.0, 1.0])
            still = [0.012 * side + 0.004 * away] * int(self.rng.integers(2, 6))
        turn = self.rng.uniform(-0.6, 0.6)
        cos, sin = np.cos(turn), np.sin(turn)
        off = np.array([cos * away[0] - sin * away[1], sin * away[0] + cos * away[1]])
        leave = [off * self.rng.uniform(0.008, 0.03)] * int(self.rng.integers(2, 7))
        return [np.asarray(way, dtype=np.float32) for way in still + leave]
