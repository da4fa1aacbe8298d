"""Resizing of uint8 frames."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize frames, bilinear and antialiased; frames of that size are returned as they are.

    Args:
        frames: (..., H, W, 3) uint8.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (..., height, width, 3) uint8.

    Raises:
        ValueError: if the frames are not uint8 RGB.
    """
    if frames.dtype != np.uint8 or frames.ndim < 3 or frames.shape[-1] != 3:
        raise ValueError(
            f"frames have shape {frames.shape} and dtype {frames.dtype}, expected (..., H, W, 3) "
            "uint8; "
            "convert floats in 0..1 with (frames * 255).round().astype(np.uint8)"
        )
    if frames.shape[-3:-1] == (height, width):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    resized = np.empty((len(flat), height, width, 3), np.uint8)
    for i, frame in enumerate(flat):
        image = Image.fromarray(np.ascontiguousarray(frame))
        resized[i] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return resized.reshape(*frames.shape[:-3], height, width, 3)
