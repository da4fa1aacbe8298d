"""Random starts of Cube: where the cubes lie at a reset (no MuJoCo)."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.cube.state import CUBE_HALF_M

CUBES_WITHIN_M = np.array([[0.3, -0.3], [0.55, 0.3]])
"""Lowest and highest x and y of a cube's centre; OGBench's own bounds."""
CUBE_SPACING_M = 0.1  # of the centres: the open hand fits between


def sample_cubes(cubes: int, rng: np.random.Generator) -> np.ndarray:
    """Draws where cubes lie flat on the floor, the open hand's width apart.

    Args:
        cubes: how many.
        rng: the only source of randomness.

    Returns:
        Positions in metres and unit quaternions, (n, 7).
    """
    centres: list[np.ndarray] = []
    while len(centres) < cubes:  # four circles of this size always leave room in these bounds
        centre = rng.uniform(*CUBES_WITHIN_M)
        if all(np.linalg.norm(centre - other) > CUBE_SPACING_M for other in centres):
            centres.append(centre)
    half_turns = rng.uniform(0, np.pi, cubes)
    poses = np.zeros((cubes, 7))
    poses[:, :2], poses[:, 2] = centres, CUBE_HALF_M
    poses[:, 3], poses[:, 6] = np.cos(half_turns), np.sin(half_turns)
    return poses
