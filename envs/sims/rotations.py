"""Rotations in the conventions of BridgeSim: matrices whose columns are a frame's axes."""

from __future__ import annotations

import numpy as np

DOWN = np.array([0.0, 0.0, -1.0])


def from_rpy(rpy_rad: np.ndarray) -> np.ndarray:
    """Returns the matrix (3, 3) of turns about the world's x, then y, then z axis, (3,) rad."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy_rad), np.sin(rpy_rad)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Returns the matrix (3, 3) of a unit quaternion (4,), scalar first."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def about(axis: np.ndarray, angle_rad: float) -> np.ndarray:
    """Returns the matrix (3, 3) of a turn about a unit vector (3,)."""
    half = angle_rad / 2
    return from_quaternion(np.concatenate([[np.cos(half)], np.sin(half) * axis]))


def wrapped(angle_rad: float, period_rad: float) -> float:
    """Returns the equivalent angle of smallest size, for angles that repeat after a period."""
    return float((angle_rad + period_rad / 2) % period_rad - period_rad / 2)


def limit_tilt(rotation: np.ndarray, limit_rad: float) -> np.ndarray:
    """Turns a hand (3, 3) back until its x axis is at most this far from straight down."""
    approach = rotation[:, 0]
    axis = np.cross(approach, DOWN)
    sine = float(np.linalg.norm(axis))
    tilt = float(np.arctan2(sine, approach @ DOWN))
    if tilt <= limit_rad or sine < 1e-9:
        return rotation
    return about(axis / sine, tilt - limit_rad) @ rotation
