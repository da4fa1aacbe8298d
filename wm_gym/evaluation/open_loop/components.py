"""Reading LangTable frames: where the peg is, and which coloured blocks are there.

A pixel belongs to a block's colour by its hue if it is saturated, and to the peg if it is dark.
Blocks of one colour may touch and then form one component, so persistence is judged by area as well
as by count, both relative to what the true frames of the same episode show.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage

from wm_gym.envs.sims.langtable.shapes import COLOURS

DARK_LEVEL = 100
"""A pixel whose brightest channel lies below this may belong to the peg."""

MIN_SATURATION = 0.35
MIN_VALUE = 0.25
_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


def _hue(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue, saturation and value of uint8 (..., 3), each (...,) in 0..1."""
    rgb = frames.astype(np.float32) / 255.0
    high, low = rgb.max(-1), rgb.min(-1)
    chroma = high - low
    safe = np.where(chroma > 0, chroma, 1.0)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    sector = np.where(
        high == red,
        ((green - blue) / safe) % 6.0,
        np.where(high == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    saturation = np.where(high > 0, chroma / np.where(high > 0, high, 1.0), 0.0)
    return np.where(chroma > 0, sector / 6.0, 0.0), saturation, high


def colour_masks(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Find the pixels of every block colour.

    Args:
        frames: uint8 (..., H, W, 3).

    Returns:
        By colour name, (..., H, W) bool; no pixel belongs to two colours.
    """
    hue, saturation, value = _hue(frames)
    references = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in COLOURS.values()])
    distance = np.abs(hue[..., None] - references)
    nearest = np.minimum(distance, 1.0 - distance).argmin(-1)
    block = (saturation > MIN_SATURATION) & (value > MIN_VALUE)
    return {name: block & (nearest == index) for index, name in enumerate(COLOURS)}


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the connected components of (H, W) bool from 1; returns the numbers and how many."""
    return cast("tuple[np.ndarray, int]", ndimage.label(mask, structure=_EIGHT_NEIGHBOURS))


def component_areas(mask: np.ndarray) -> np.ndarray:
    """Areas in pixels of the connected components of (H, W) bool, largest first."""
    labels, count = _label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return np.sort(areas)[::-1]


def count_blocks(frame: np.ndarray, min_area_px: float) -> dict[str, int]:
    """Count the components of each colour in one frame.

    Args:
        frame: uint8 (H, W, 3).
        min_area_px: smaller components are specks, not blocks.

    Returns:
        Number of components by colour name.
    """
    return {
        name: int((component_areas(mask) >= min_area_px).sum())
        for name, mask in colour_masks(frame).items()
    }


def locate_peg(frames: np.ndarray) -> np.ndarray:
    """Find the centre of the dark peg.

    Args:
        frames: uint8 (..., H, W, 3).

    Returns:
        (..., 2) float64, x and y in pixels from the top left pixel's centre; NaN where no dark
        component is seen.
    """
    lead = frames.shape[:-3]
    flat = frames.reshape(-1, *frames.shape[-3:])
    centres = np.full((len(flat), 2), np.nan)
    for row, frame in enumerate(flat):
        darkness = np.clip(DARK_LEVEL - frame.max(-1).astype(np.float64), 0.0, None)
        labels, count = _label(darkness > 0)
        if count == 0:
            continue
        weight = ndimage.sum_labels(darkness, labels, np.arange(1, count + 1))
        peg = darkness * (labels == weight.argmax() + 1)
        y, x = np.indices(peg.shape)
        centres[row] = (x * peg).sum() / peg.sum(), (y * peg).sum() / peg.sum()
    return centres.reshape(*lead, 2)


@dataclass(frozen=True)
class PersistenceRule:
    """When a block counts as vanished or doubled, in areas of the colour's smallest block.

    Calibrated on true frames, which must pass: the tilted view lets the peg hide part of a block,
    and a block at rest on pixel borders changes its area a little.

    Attributes:
        speck: components smaller than this share of the smallest block are ignored.
        missing: a colour has lost a block when this much of the smallest block is gone.
        excess: a colour has gained one when it covers this much more.
    """

    speck: float = 0.4
    missing: float = 0.65
    excess: float = 0.65


class BlockReference:
    """Which blocks an episode shows, learned from its true frames.

    Args:
        truth: uint8 (T, H, W, 3), true frames of the episode: they tell how many blocks of each
            colour there are and how large they look.
        rule: thresholds.

    Example:
        >>> table = np.full((1, 32, 32, 3), 235, np.uint8)
        >>> table[0, 4:12, 4:12] = 230, 30, 36  # a red block
        >>> BlockReference(table).persist(table), BlockReference(table).persist(table * 0 + 235)
        (True, False)
    """

    def __init__(self, truth: np.ndarray, rule: PersistenceRule | None = None) -> None:
        self.rule = rule or PersistenceRule()
        areas = _areas(truth)
        largest = [a[0] for frames in areas.values() for a in frames if len(a)]
        typical_px = float(np.median(largest)) if largest else 1.0
        self._expected = {
            name: _expected_blocks(frames, typical_px, self.rule) for name, frames in areas.items()
        }

    @property
    def counts(self) -> dict[str, int]:
        """Number of blocks by colour name."""
        return {name: expected.count for name, expected in self._expected.items()}

    def persist(self, frames: np.ndarray) -> bool:
        """Whether no block vanishes or doubles in frames uint8 (T, H, W, 3) of the episode.

        Returns:
            True if, in every frame, each colour covers as much as its blocks do and shows no more
            components than blocks.
        """
        return all(
            _as_expected(areas, self._expected[name], self.rule)
            for name, frames_areas in _areas(frames).items()
            for areas in frames_areas
        )


def _areas(frames: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Component areas by colour and frame."""
    masks = colour_masks(frames)
    return {
        name: [component_areas(mask) for mask in of_frames] for name, of_frames in masks.items()
    }


@dataclass(frozen=True)
class _Expected:
    count: int
    total_px: float
    smallest_px: float


def _expected_blocks(
    areas: list[np.ndarray], typical_px: float, rule: PersistenceRule
) -> _Expected:
    """Blocks of one colour: the frames that show most components show them apart."""
    real = [a[a >= rule.speck * typical_px] for a in areas]
    count = max(len(a) for a in real)
    if count == 0:
        return _Expected(0, 0.0, typical_px)
    apart = [a for a in real if len(a) == count]
    return _Expected(
        count,
        float(np.median([a.sum() for a in real])),
        float(np.median([a.min() for a in apart])),
    )


def _as_expected(areas: np.ndarray, expected: _Expected, rule: PersistenceRule) -> bool:
    real = areas[areas >= rule.speck * expected.smallest_px]
    total = float(real.sum())
    return (
        len(real) <= expected.count
        and total >= expected.total_px - rule.missing * expected.smallest_px
        and total <= expected.total_px + rule.excess * expected.smallest_px
    )
