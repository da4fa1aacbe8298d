"""Resizing of uint8 frames, and frames of several cameras side by side."""

from __future__ import annotations

import numpy as np
from PIL import Image

from wm_gym.errors import UserError


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
        raise UserError(
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


def split_views(frames: np.ndarray, views: int) -> np.ndarray:
    """Take pictures of V cameras that stand side by side apart.

    Args:
        frames: (..., H, V·W, C), pixels or latents.
        views: number of cameras V.

    Returns:
        (V, ..., H, W, C).

    Raises:
        ValueError: if the width is no multiple of V.
    """
    width = frames.shape[-2]
    if views < 1 or width % views:
        raise UserError(
            f"frames of width {width} do not hold {views} cameras of equal width side by side; "
            "check the number of views"
        )
    return np.stack(np.split(frames, views, axis=-2))


def join_views(views: np.ndarray) -> np.ndarray:
    """Put pictures (V, ..., H, W, C) of V cameras side by side: (..., H, V·W, C)."""
    return np.concatenate(list(views), axis=-2)


def resize_views(frames: np.ndarray, height: int, width: int, views: int = 1) -> np.ndarray:
    """Resize each camera's part of a frame on its own, so that no pixel mixes two cameras.

    Args:
        frames: (..., H, V·W, 3) uint8.
        height: rows of the result.
        width: columns of the result, all cameras together.
        views: number of cameras V.

    Returns:
        (..., height, width, 3) uint8.

    Raises:
        ValueError: if a width is no multiple of V.
    """
    if views == 1 or frames.shape[-3:-1] == (height, width):
        return resize(frames, height, width)
    if width % views:
        raise UserError(f"width {width} is no multiple of {views} views; give one that is")
    return join_views(resize(split_views(frames, views), height, width // views))
