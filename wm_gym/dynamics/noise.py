"""Noise as a pure function of (row seed, step): no generator state, the same bits in any batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wm_gym.errors import UserError

FRAME_STREAM = 0
"""Stream of the initial noise of generated frames; other uses take other streams."""


def row_generator(seed: int, step: int, stream: int = FRAME_STREAM) -> np.random.Generator:
    """Counter-based generator of one row at one step.

    The step sits in the counter's second word, so the numbers drawn at one step (up to 2^64 blocks
    in the first word) never run into those of the next.

    Args:
        seed: row seed, any non-negative integer below 2^64.
        step: environment step of the row.
        stream: separates independent uses of the same seed.
    """
    if not 0 <= seed < 2**64:
        raise UserError(f"a row seed must lie in [0, 2^64), got {seed}")
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, step, 0, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def row_noise(
    seeds: Sequence[int],
    steps: Sequence[int],
    shape: tuple[int, ...],
    stream: int = FRAME_STREAM,
) -> Tensor:
    """Standard normal float32 noise, (B, *shape), drawn on the CPU row by row."""
    rows = [
        row_generator(int(seed), int(step), stream).standard_normal(shape, dtype=np.float32)
        for seed, step in zip(seeds, steps, strict=True)
    ]
    return torch.from_numpy(np.stack(rows))
