"""Where things of LangTable appear in the picture of its camera, without MuJoCo."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.langtable.scene import CAMERA_DISTANCE_M, CAMERA_TILT_DEG, VIEW_HEIGHT_M
from wm_gym.envs.sims.langtable.shapes import BLOCK_HEIGHT_M, PEG_HEIGHT_M


def project(points_m: np.ndarray) -> np.ndarray:
    """Places in a square frame.

    Args:
        points_m: (..., 3) metres, in the scene's coordinates.

    Returns:
        (..., 2): x to the right and y up, within ±1 inside the frame.
    """
    tilt = np.deg2rad(CAMERA_TILT_DEG)
    x, y, z = np.moveaxis(np.asarray(points_m, np.float64), -1, 0)
    height = y * np.cos(tilt) + z * np.sin(tilt)
    depth = CAMERA_DISTANCE_M + y * np.sin(tilt) - z * np.cos(tilt)
    scale = 2 * CAMERA_DISTANCE_M / VIEW_HEIGHT_M / depth
    return np.stack([x * scale, height * scale], axis=-1)


def places(states: np.ndarray) -> np.ndarray:
    """Where peg and blocks appear.

    Args:
        states: privileged states, (N, 2 + 3n).

    Returns:
        Middles of the peg and of the n blocks as `project` gives them, (N, 1 + n, 2).
    """
    states = np.asarray(states, np.float64)
    blocks = states[:, 2:].reshape(len(states), -1, 3)[..., :2]
    table = np.concatenate([states[:, None, :2], blocks], axis=1)
    heights = np.full(table.shape[1], BLOCK_HEIGHT_M / 2)
    heights[0] = PEG_HEIGHT_M / 2
    return project(np.dstack([table, np.broadcast_to(heights, table.shape[:2])]))


def path(state: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The way that actions mean the peg to take, unless something stops it.

    Args:
        state: privileged state in which they begin, (2 + 3n,).
        actions: dx and dy in metres, (..., n, 2).

    Returns:
        Places of the peg's middle as `project` gives them, (..., n + 1, 2).
    """
    start = np.broadcast_to(np.zeros(2), (*actions.shape[:-2], 1, 2))
    table = state[:2] + np.cumsum(np.concatenate([start, actions[..., :2]], axis=-2), axis=-2)
    height = np.full((*table.shape[:-1], 1), PEG_HEIGHT_M / 2)
    return project(np.concatenate([table, height], axis=-1))
