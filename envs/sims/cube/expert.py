"""Experts of Cube: OGBench's Markov oracle at 10 Hz, with goals in words and seeds of its own.

The package's oracles draw from numpy's global generator. Here they draw from the episode's: the
global one is seeded from it for the time of a call, and put back as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from wm_gym.envs.sims.cube.state import CUBE_HALF_M, CubeState
from wm_gym.envs.sims.cube.tasks import CubeGoal
from wm_gym.envs.sims.scripted import HasPrivilegedState, noisy, read_state

ACTION_LIMIT = np.array([0.05, 0.05, 0.05, 0.3, 1.0])
PACE = (0.04, 0.1)  # the oracle's shortest difference, m; it goes a quarter of one in a step
_LIFTED_M = 0.3


@contextmanager
def seeded_globally(rng: Any) -> Iterator[None]:
    """Lets numpy's global generator follow `rng`, and leaves it as it was before.

    Args:
        rng: offers `uniform(low, high)`; one number is drawn.
    """
    before = np.random.get_state()  # noqa: NPY002  what the package draws from
    np.random.seed(int(rng.uniform(0, 2**32 - 1)))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def oracle_info(
    state: CubeState, target: int, target_m: np.ndarray, target_yaw_rad: float, time_s: float = 0.0
) -> dict[str, Any]:
    """What the package's oracles read: the state, and where a cube shall go.

    Args:
        state: one privileged state.
        target: number of the cube.
        target_m: (3,) where its centre shall be.
        target_yaw_rad: and how it shall be turned.
        time_s: since the episode's beginning.
    """
    info: dict[str, Any] = {
        "time": np.array([time_s]),
        "proprio/effector_pos": state.hand_m,
        "proprio/effector_yaw": np.array([state.hand_yaw_rad]),
        "proprio/gripper_opening": np.array([state.closed]),
        "proprio/gripper_contact": np.array([state.force]),
        "privileged/target_block": target,
        "privileged/target_block_pos": target_m,
        "privileged/target_block_yaw": np.array([target_yaw_rad]),
    }
    for number, yaw in enumerate(state.cubes_yaw_rad):
        info[f"privileged/block_{number}_pos"] = state.cubes_m[number]
        info[f"privileged/block_{number}_yaw"] = np.array([yaw])
    return info


class Expert:
    """Grasps the first cube and lifts it, or puts it on the second one: OGBench's Markov oracle.

    It goes on from what it sees: what slips out of the hand, or lands elsewhere, is grasped again.
    """

    def reset(self, goal: CubeGoal, rng: np.random.Generator, objects: tuple[str, ...]) -> None:
        """Starts an episode.

        Args:
            goal: what is to be done.
            rng: draws the pace of this episode and where the hand goes afterwards.
            objects: names of the cubes, in the state's order.
        """
        from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

        from wm_gym.envs.sims.cube.ogbench import cube_scene

        self.goal, self.rng = goal, rng
        self.first = objects.index(goal.first)
        self.second = None if goal.second is None else objects.index(goal.second)
        self._oracle = CubeMarkovOracle(env=cube_scene(len(objects)), min_norm=rng.uniform(*PACE))
        with seeded_globally(rng):
            self._oracle.reset(None, None)

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (5,) float32, for an environment or a privileged state."""
        state = self.seen(CubeState.from_array(read_state(source)))
        info = oracle_info(state, self.first, *self.target(state))
        return (self._oracle.select_action(None, info) * ACTION_LIMIT).astype(np.float32)

    def seen(self, state: CubeState) -> CubeState:
        """The state that it acts on."""
        return state

    def target(self, state: CubeState) -> tuple[np.ndarray, float]:
        """Where the first cube shall go: position (3,) in metres, and turn in rad."""
        if self.second is None:
            place = state.cubes_m[self.first].copy()
            place[2] = _LIFTED_M
            return place, float(state.hand_yaw_rad)
        place = state.cubes_m[self.second] + [0.0, 0.0, 2 * CUBE_HALF_M]
        return place, float(state.cubes_yaw_rad[self.second])


class NoisyExpert(Expert):
    """An expert whose hand trembles.

    Args:
        noise: standard deviation of what is added to each action, as a fraction of the largest one.
    """

    def __init__(self, noise: float) -> None:
        self._deviation = noise * ACTION_LIMIT

    def act(self, source: HasPrivilegedState | np.ndarray) -> np.ndarray:
        """Returns the action, (5,) float32, for an environment or a privileged state."""
        return noisy(super().act(source), self.rng, self._deviation, -ACTION_LIMIT, ACTION_LIMIT)
