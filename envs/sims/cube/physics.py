"""The physics of Cube: one action of the hand, a tenth of a second long, in OGBench's scene."""

from __future__ import annotations

from typing import Any

import numpy as np

from wm_gym.envs.sims.cube.ogbench import CubeScene, cube_scene, mujoco
from wm_gym.envs.sims.cube.state import CubeState

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class CubePhysics:
    """A floor with an arm and n cubes.

    Args:
        objects: names of the cubes.
        height_px: height of the frames that will be rendered from `model`.
        width_px: their width.
        background: name of the floor's look.
    """

    def __init__(
        self, objects: tuple[str, ...], height_px: int, width_px: int, background: str
    ) -> None:
        self._scene: CubeScene = cube_scene(len(objects)).fork(
            objects, height_px, width_px, background
        )
        self._length = mujoco.mj_stateSize(self._scene.model, _STATE)
        self._stored = np.empty(self._length)
        self._observe()

    @property
    def model(self) -> Any:
        """MuJoCo's model."""
        return self._scene.model

    @property
    def data(self) -> Any:
        """MuJoCo's data."""
        return self._scene.data

    def place(self, poses: np.ndarray, rng: np.random.Generator) -> None:
        """Puts the cubes down and the hand above them, see `CubeScene.place`."""
        self._scene.place(poses, rng)
        self._observe()

    def move(self, action: np.ndarray) -> None:
        """Executes an action (5,), physical units; the hand stays in OGBench's workspace."""
        self._scene.act(action)
        self._observe()

    def _observe(self) -> None:
        # before anything is derived from it, so that a restored state derives the same bits
        mujoco.mj_getState(self.model, self.data, self._stored, _STATE)
        self.state: CubeState = self._scene.observe()

    def get_state(self) -> np.ndarray:
        """Returns everything that the future depends on, one flat float64 array."""
        return self._stored.copy()

    @property
    def state_length(self) -> int:
        """Length of `get_state`."""
        return self._length

    def set_state(self, state: np.ndarray) -> None:
        """Resumes from a result of `get_state`."""
        mujoco.mj_setState(self.model, self.data, state, _STATE)
        self._observe()
