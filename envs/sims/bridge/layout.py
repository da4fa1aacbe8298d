"""Random starts of BridgeSim: where the hand and the things are at a reset (no MuJoCo)."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.bridge.objects import Thing

TASK_AREA_M = np.array([[0.205, -0.115], [0.345, 0.115]])  # centres of what the task needs
WIDE_AREA_M = np.array([[0.19, -0.16], [0.38, 0.16]])  # and of what is only in the way
HAND_AREA_M = np.array([[0.19, -0.03, 0.15], [0.24, 0.09, 0.20]])
HAND_YAW_RAD = 0.25
SPACING_M = 0.008
_HAND_ROOM_M = 0.052  # the open hand needs this much room around what it grasps


def sample_start(
    things: tuple[Thing, ...], rng: np.random.Generator
) -> tuple[np.ndarray, float, np.ndarray]:
    """Draws a start in which nothing touches.

    Args:
        things: the task's first and second thing, then others.
        rng: the only source of randomness.

    Returns:
        Position of the hand (3,) m, its yaw in rad, and poses of the things (n, 7), m and unit
        quaternion.
    """
    radii = [thing.radius_m for thing in things]
    radii[0] = max(radii[0], _HAND_ROOM_M)
    while True:
        centres: list[np.ndarray] = []
        for k, radius in enumerate(radii):
            area = TASK_AREA_M if k < 2 else WIDE_AREA_M
            for _ in range(100):
                centre = rng.uniform(*area)
                if all(
                    np.linalg.norm(centre - other) > radius + radii[n] + SPACING_M
                    for n, other in enumerate(centres)
                ):
                    centres.append(centre)
                    break
            else:
                break
        if len(centres) == len(things):
            break
    yaws = rng.uniform(-np.pi, np.pi, len(things))
    poses = np.zeros((len(things), 7))
    poses[:, :2] = centres
    poses[:, 2] = [thing.rest_z_m + 0.0005 for thing in things]
    poses[:, 3], poses[:, 6] = np.cos(yaws / 2), np.sin(yaws / 2)
    return rng.uniform(*HAND_AREA_M), rng.uniform(-HAND_YAW_RAD, HAND_YAW_RAD), poses
