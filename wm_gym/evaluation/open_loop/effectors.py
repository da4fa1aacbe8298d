"""Where the effector is in a frame, by simulator: from pixels alone, so that dreams can be read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from wm_gym.evaluation.open_loop.components import locate_peg

DARK_LEVEL = 80
"""A pixel of BridgeSim's arm has no channel above this..."""
GREY_SPREAD = 30
"""...and no two channels that differ by more: the eggplant is dark, but not grey."""
SMALLEST_ARM = 0.004
"""Share of the frame that a dark component must cover to be the arm."""
HAND_ROWS = 0.12
"""The hand: this share of the frame's height above the lowest pixel of the arm. Both fingers and
a part of the palm, so that it does not matter which of two fingers reaches a pixel farther."""
BASE = (0.62, 0.16)
"""The robot's base stands in the lower left corner: below and left of these shares of the frame."""


def locate_gripper(frames: np.ndarray) -> np.ndarray:
    """Find the lower end of BridgeSim's arm, the hand, in the over-the-shoulder view.

    The arm comes in from above, and its hand points down.

    Args:
        frames: uint8 (..., H, W, 3).

    Returns:
        (..., 2) float64, x and y in pixels from the top left pixel's centre; NaN where no arm is
        seen.
    """
    lead = frames.shape[:-3]
    flat = frames.reshape(-1, *frames.shape[-3:]).astype(np.int16)
    height, width = flat.shape[1:3]
    high, low = flat.max(-1), flat.min(-1)
    dark = (high < DARK_LEVEL) & (high - low < GREY_SPREAD)
    dark[:, int(BASE[0] * height) :, : int(BASE[1] * width)] = False
    places = np.full((len(flat), 2), np.nan)
    for row, mask in enumerate(dark):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3), bool))  # pyright: ignore
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        if not count or areas.max() < SMALLEST_ARM * height * width:
            continue
        y, x = np.nonzero(labels == areas.argmax() + 1)
        hand = y > y.max() - HAND_ROWS * height
        weight = (DARK_LEVEL - high[row, y[hand], x[hand]]).astype(np.float64)
        places[row] = np.average(x[hand], weights=weight), np.average(y[hand], weights=weight)
    return places.reshape(*lead, 2)


EFFECTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "LangTable-v0": locate_peg,
    "BridgeSim-v0": locate_gripper,
}
"""Simulator id -> where its effector is in frames (..., H, W, 3): (..., 2) pixels, x and y."""
