"""Where things of BridgeSim appear in the over-the-shoulder camera's picture, without MuJoCo."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.bridge.scene import SHOULDER, camera_axes


def project(points_m: np.ndarray) -> np.ndarray:
    """Places in a square frame of the shoulder camera.

    Args:
        points_m: (..., 3) metres, in the scene's coordinates.

    Returns:
        (..., 2): x to the right and y up, within ±1 inside the frame.
    """
    eye, target, fovy_deg = SHOULDER
    right, up, back = camera_axes(eye, target)
    way = np.asarray(points_m, np.float64) - eye
    depth = -(way @ back) * np.tan(np.deg2rad(fovy_deg) / 2)
    return np.stack([way @ right, way @ up], axis=-1) / depth[..., None]


def on_table(places: np.ndarray) -> np.ndarray:
    """Points of the table that appear at places of the frame; the inverse of `project` at z = 0.

    Args:
        places: (..., 2), x to the right and y up, within ±1.

    Returns:
        (..., 2) x and y in metres.
    """
    eye, target, fovy_deg = SHOULDER
    right, up, back = camera_axes(eye, target)
    spread = np.tan(np.deg2rad(fovy_deg) / 2) * np.asarray(places, np.float64)
    ray = spread[..., :1] * right + spread[..., 1:] * up - back
    length = -eye[2] / ray[..., 2:]
    return (np.asarray(eye) + length * ray)[..., :2]
