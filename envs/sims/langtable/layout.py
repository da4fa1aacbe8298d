"""Random starts of LangTable: where the peg and the blocks stand at a reset (no MuJoCo)."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.langtable.shapes import BLOCK_RADIUS_M, PEG_RADIUS_M
from wm_gym.envs.sims.langtable.tasks import Goal

BLOCKS_WITHIN_M = 0.135  # the peg can still get behind a block that stands here
PEG_WITHIN_M = 0.17
BLOCK_SPACING_M = 2 * BLOCK_RADIUS_M + 0.006
PEG_SPACING_M = BLOCK_RADIUS_M + PEG_RADIUS_M + 0.008
SEPARATE_START_M = (0.060, 0.072)  # centres of the two blocks that are to be separated
PUSH_START_M = 0.11  # centres of the two blocks that are to be pushed together: at least this


def sample_start(goal: Goal, objects: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Draws a start in which nothing touches and the goal is not yet fulfilled.

    Args:
        goal: what will be asked for.
        objects: the n blocks on the table.
        rng: the only source of randomness.

    Returns:
        Privileged state, (2 + 3n,) float64.
    """
    indices = [objects.index(name) for name in goal.objects]
    rest = [k for k in range(len(objects)) if k not in indices]
    while True:
        centres = np.full((len(objects), 2), np.nan)
        for position, k in enumerate(indices + rest):
            if goal.task == "separate" and position == 1:
                angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(*SEPARATE_START_M)
                step = length * np.array([np.cos(angle), np.sin(angle)])
                centres[k] = centres[indices[0]] + step
                if np.abs(centres[k]).max() > BLOCKS_WITHIN_M:
                    break
                continue
            for _ in range(200):
                centre = rng.uniform(-BLOCKS_WITHIN_M, BLOCKS_WITHIN_M, 2)
                gap = np.linalg.norm(centres - centre, axis=1)
                if not (gap < BLOCK_SPACING_M).any():
                    centres[k] = centre
                    break
        if np.isnan(centres).any():
            continue
        if goal.task == "push" and np.linalg.norm(np.subtract(*centres[indices])) < PUSH_START_M:
            continue
        for _ in range(200):
            peg = rng.uniform(-PEG_WITHIN_M, PEG_WITHIN_M, 2)
            if np.linalg.norm(centres - peg, axis=1).min() > PEG_SPACING_M:
                angles = rng.uniform(-np.pi, np.pi, len(objects))
                return np.concatenate([peg, np.column_stack([centres, angles]).ravel()])
