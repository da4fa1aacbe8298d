"""Scripted experts of LangTable: they read the privileged state, so they run only in simulation."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.langtable.path import next_waypoint
from wm_gym.envs.sims.langtable.shapes import (
    BLOCK_RADIUS_M,
    OBJECTS,
    PEG_RADIUS_M,
    WORKSPACE_M,
)
from wm_gym.envs.sims.langtable.tasks import SEPARATE_DISTANCE_M, Goal, split_state
from wm_gym.envs.sims.scripted import HasPrivilegedState, limit, noisy, read_state

ACTION_LIMIT_M = 0.03
TOUCH_M = BLOCK_RADIUS_M + PEG_RADIUS_M  # of the centres: never farther when peg and block touch
_STANDOFF_M = TOUCH_M + 0.004  # the peg waits this far behind a block before it pushes
_BLOCK_WITHIN_M = WORKSPACE_M - _STANDOFF_M  # the peg can get behind a block on every side here
_BEND_RAD = np.deg2rad([0, 20, 40, 55, 70, 90, 110])


class Expert:
    """Does a task: reaches a block, pushes one to another or moves two apart.

    The peg goes around the blocks to a place behind the one to be pushed, pushes, steers by
    shifting sideways, and starts anew when the block slips off.

    Args:
        max_speed_m: longest way of the peg in one action; each episode draws its own pace below.
    """

    def __init__(self, max_speed_m: float = ACTION_LIMIT_M) -> None:
        self._max_speed_m = max_speed_m

    def reset(
        self, goal: Goal, rng: np.random.Generator, objects: tuple[str, ...] = OBJECTS
    ) -> None:
        """Starts an episode.

        Args:
            goal: what is to be done.
            rng: draws the pace of this episode.
            objects: the blocks on the table, in the order of the state.
        """
        self.goal, self.rng, self.objects = goal, rng, objects
        self._travel_m = self._max_speed_m * rng.uniform(0.7, 1.0)
        self._push_m = self._max_speed_m * rng.uniform(0.45, 0.9)
        self._pushing = False
        self._turn = 1.0
        self._plan: tuple[int, np.ndarray] | None = None
        self._patience = 0

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (2,) float32 metres, for an environment or a privileged state."""
        peg, poses = split_state(read_state(source))
        centres = poses[:, :2]
        first = self.objects.index(self.goal.first)
        if self.goal.task == "reach":
            way = self.travel(peg, centres[first], np.delete(centres, first, 0))
        elif self.goal.task == "push":
            assert self.goal.second is not None
            second = self.objects.index(self.goal.second)
            if np.abs(centres[first]).max() > WORKSPACE_M:  # no way behind it: bring the other one
                first, second = second, first
            way = self.push(peg, centres, first, centres[second], ignore=second)
        else:
            way = self._separate(peg, centres)
        return np.clip(way, -ACTION_LIMIT_M, ACTION_LIMIT_M).astype(np.float32)

    def travel(self, peg: np.ndarray, end: np.ndarray, obstacles: np.ndarray) -> np.ndarray:
        """Returns the next way of the peg to a point, around obstacles; all metres."""
        point = next_waypoint(peg, end, obstacles, TOUCH_M + 0.003, WORKSPACE_M)
        return limit(point - peg, self._travel_m)

    def push(
        self,
        peg: np.ndarray,
        centres: np.ndarray,
        block: int,
        end: np.ndarray,
        ignore: int | None = None,
    ) -> np.ndarray:
        """Returns the next way of the peg so that a block comes to a point.

        Args:
            peg: (2,) metres.
            centres: (n, 2) metres.
            block: index of the block to be pushed.
            end: (2,) where its centre shall go.
            ignore: index of a block that is no obstacle to it.

        Returns:
            (2,) metres.
        """
        centre = centres[block]
        others = np.delete(centres, [block] if ignore is None else [block, ignore], 0)
        point = next_waypoint(centre, end, others, 2 * BLOCK_RADIUS_M, _BLOCK_WITHIN_M)
        ahead = self._direction(centre, point)
        side = np.array([-ahead[1], ahead[0]])
        offset = peg - centre
        behind, aside = -offset @ ahead, offset @ side
        width = 0.016 if self._pushing else 0.007
        self._pushing = bool(0.01 < behind < _STANDOFF_M + 0.012 and abs(aside) < width)
        if self._pushing:
            return limit(self._push_m * ahead - 0.8 * aside * side, self._push_m)
        wait = np.clip(centre - _STANDOFF_M * ahead, -WORKSPACE_M, WORKSPACE_M)
        return self.travel(peg, wait, centres)

    def _direction(self, centre: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Direction in which to push: straight on, or bent if the peg could not get behind."""
        way = point - centre
        straight = np.arctan2(way[1], way[0])
        for bend in _BEND_RAD:
            for turn in (self._turn, -self._turn):  # the side taken last first: no dithering
                angle = straight + turn * bend
                ahead = np.array([np.cos(angle), np.sin(angle)])
                if np.abs(centre - _STANDOFF_M * ahead).max() <= WORKSPACE_M + 0.002:
                    self._turn = turn
                    return ahead
        return np.array([np.cos(straight), np.sin(straight)])

    def _separate(self, peg: np.ndarray, centres: np.ndarray) -> np.ndarray:
        assert self.goal.second is not None
        pair = [self.objects.index(self.goal.first), self.objects.index(self.goal.second)]
        if self._plan is not None:
            block, end = self._plan
            self._patience -= 1
            if self._patience <= 0 or np.linalg.norm(centres[block] - end) < 0.008:
                self._plan = None
        if self._plan is None:
            self._plan = _way_apart(peg, centres, pair)
            self._patience = 30
        block, end = self._plan
        return self.push(peg, centres, block, end, ignore=pair[1] if block == pair[0] else pair[0])


def _way_apart(peg: np.ndarray, centres: np.ndarray, pair: list[int]) -> tuple[int, np.ndarray]:
    """Chooses which of two blocks to push, and where to, so that they come apart."""
    best, choice = np.inf, (pair[0], centres[pair[0]])
    for block, other in (pair, pair[::-1]):
        start, rest = centres[block], np.delete(centres, [block], 0)
        strangers = np.delete(centres, pair, 0)
        for angle in np.linspace(-np.pi, np.pi, 24, endpoint=False):
            ahead = np.array([np.cos(angle), np.sin(angle)])
            gap = start - centres[other]
            along = gap @ ahead
            beyond = along**2 + (SEPARATE_DISTANCE_M + 0.015) ** 2 - gap @ gap
            if beyond < 0.0:  # this way never crosses the distance: they are apart already
                continue
            length = -along + np.sqrt(beyond)
            end, wait = start + length * ahead, start - _STANDOFF_M * ahead
            way = np.linspace(0.0, 1.0, 8)[:, None] * (end - start) + start
            near = np.linalg.norm(way[:, None] - strangers, axis=-1).min(initial=1.0)
            room = np.linalg.norm(rest - wait, axis=1).min()
            cost = (
                length
                + 0.3 * np.linalg.norm(peg - wait)
                + 10 * max(0.0, 2 * BLOCK_RADIUS_M - near)
                + 30 * max(0.0, TOUCH_M + 0.002 - room)
                + 10 * max(0.0, np.abs(end).max() - 0.15)
                + 50 * max(0.0, np.abs(wait).max() - WORKSPACE_M)
            )
            if cost < best:
                best, choice = cost, (block, end)
    return choice


class NoisyExpert(Expert):
    """An expert whose hand trembles.

    Args:
        noise_m: standard deviation of what is added to each action, per axis.
        max_speed_m: see `Expert`.
    """

    def __init__(self, noise_m: float, max_speed_m: float = ACTION_LIMIT_M) -> None:
        super().__init__(max_speed_m)
        self._noise_m = noise_m

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (2,) float32 metres, for an environment or a privileged state."""
        action = super().act(source)
        return noisy(action, self.rng, self._noise_m, -ACTION_LIMIT_M, ACTION_LIMIT_M)
