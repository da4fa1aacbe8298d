"""Multi-block masks of V-JEPA (arXiv:2404.08471, section 3.2): blocks of space through all time.

A short-range mask is the union of eight blocks of 15 % of the frame each, a long-range mask of two
blocks of 70 %; a block's aspect ratio is uniform in 0.75 to 1.5. What is masked is masked in every
frame of the clip, so that it cannot be read from the frame before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ASPECT = (0.75, 1.5)
LEAST_KEPT = 1 / 8
"""Share of a frame that always stays visible; on a coarse grid two large blocks may cover it."""


@dataclass(frozen=True)
class Blocks:
    """What a mask is the union of.

    Attributes:
        count: blocks.
        scale: share of the frame that each covers.
    """

    count: int
    scale: float


SHORT_RANGE = Blocks(8, 0.15)
LONG_RANGE = Blocks(2, 0.7)


def draw_mask(rng: np.random.Generator, grid: tuple[int, int], blocks: Blocks) -> np.ndarray:
    """One frame's mask (h, w), True where it is hidden; something is hidden and something not."""
    height, width = grid
    least = max(1, round(LEAST_KEPT * height * width))
    while True:
        hidden = np.zeros(grid, bool)
        for _ in range(blocks.count):
            aspect, area = rng.uniform(*ASPECT), blocks.scale * height * width
            rows = min(height, max(1, round((area * aspect) ** 0.5)))
            columns = min(width, max(1, round((area / aspect) ** 0.5)))
            top = rng.integers(height - rows + 1)
            left = rng.integers(width - columns + 1)
            hidden[top : top + rows, left : left + columns] = True
        if hidden.size - hidden.sum() >= least:
            return hidden


def draw_masks(
    rng: np.random.Generator, clips: int, frames: int, grid: tuple[int, int], blocks: Blocks
) -> tuple[Tensor, Tensor]:
    """Numbers of the visible and of the hidden tokens of every clip.

    Rows of a batch must be of one length: where a mask leaves more cells visible, or hides more,
    than the others, some of them are left out of both.

    Args:
        rng: draws everything.
        clips: B.
        frames: T.
        grid: (h, w).
        blocks: kind of mask.

    Returns:
        Visible (B, T·K) and hidden (B, T·M) token numbers, frame by frame.
    """
    masks = [draw_mask(rng, grid, blocks).ravel() for _ in range(clips)]
    sides = []
    for hidden in (False, True):
        cells = [rng.permutation(np.flatnonzero(mask == hidden)) for mask in masks]
        count = min(map(len, cells))
        chosen = np.stack([np.sort(numbers[:count]) for numbers in cells])  # (B, K)
        times = np.arange(frames)[:, None] * grid[0] * grid[1]
        sides.append(torch.from_numpy((chosen[:, None] + times).reshape(clips, -1)))
    return sides[0], sides[1]
