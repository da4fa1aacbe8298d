"""Rotary positions of video tokens, as V-JEPA lays them out: a third of a head for each axis.

Coordinates are (time, row, column); what is left of a head after three equal, even parts stays
unrotated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BASE = 10_000.0

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, (..., P, head) each."""


def rotation(coordinates: Tensor, head: int) -> Rotation:
    """Cosines and sines (..., P, head) for tokens at coordinates (..., P, 3).

    Args:
        coordinates: time, row and column.
        head: channels of one attention head.
    """
    part = head // 3 // 2 * 2  # channels an axis rotates
    exponent = torch.arange(part // 2, dtype=torch.float32, device=coordinates.device) / (part / 2)
    angles = (coordinates[..., None] * BASE**-exponent).repeat_interleave(2, dim=-1)
    angles = F.pad(angles.flatten(-2), (0, head - 3 * part))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turned_by: Rotation) -> Tensor:
    """Rotate adjacent pairs of channels of x (..., P, head)."""
    cosines, sines = turned_by
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cosines + torch.stack([-odd, even], dim=-1).flatten(-2) * sines
