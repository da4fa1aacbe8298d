"""Where things of Cube appear in the picture of OGBench's front camera, without MuJoCo."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.cube.state import CubeState

CAMERA_M = np.array([1.053, -0.014, 0.639])
_RIGHT = np.array([0.0, 1.0, 0.0])
_UP = np.array([-0.628, 0.001, 0.778])
_FOVY_DEG = 45.0


def project(points_m: np.ndarray) -> np.ndarray:
    """Places in a square frame.

    Args:
        points_m: (..., 3) metres, in the scene's coordinates.

    Returns:
        (..., 2): x to the right and y up, within ±1 inside the frame.
    """
    up = _UP - (_UP @ _RIGHT) * _RIGHT
    up /= np.linalg.norm(up)
    back = np.cross(_RIGHT, up)
    way = np.asarray(points_m, np.float64) - CAMERA_M
    depth = -(way @ back) * np.tan(np.deg2rad(_FOVY_DEG) / 2)
    return np.stack([way @ _RIGHT, way @ up], axis=-1) / depth[..., None]


def places(states: np.ndarray) -> np.ndarray:
    """Where gripper and cubes appear.

    Args:
        states: privileged states, (N, S), see `cube_state`.

    Returns:
        The point between the pads and the middles of the n cubes, as `project` gives them,
        (N, 1 + n, 2).
    """
    named = CubeState.from_array(states)
    return project(np.concatenate([named.hand_m[:, None], named.cubes_m], axis=1))


def path(state: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The way that actions mean the gripper to take, unless something stops it.

    Args:
        state: privileged state in which they begin, (S,).
        actions: dx, dy and dz in metres, then what does not move it, (..., n, A).

    Returns:
        Places of the point between the pads as `project` gives them, (..., n + 1, 2).
    """
    start = np.broadcast_to(np.zeros(3), (*actions.shape[:-2], 1, 3))
    moved = np.cumsum(np.concatenate([start, actions[..., :3]], axis=-2), axis=-2)
    return project(CubeState.from_array(state).hand_m + moved)
