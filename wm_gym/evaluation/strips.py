"""Strips of frames, labelled and enlarged, for looking at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP_PX = 4
_LABEL_PX = 18
_MIN_SIDE_PX = 160


def enlargement(height: int) -> int:
    """Whole factor that makes frames of this height at least 160 pixels high."""
    return max(1, -(-_MIN_SIDE_PX // height))


def frame_strip(
    rows: dict[str, np.ndarray], columns: Sequence[str], scale: int | None = None
) -> np.ndarray:
    """Lay out frames as a labelled table.

    Args:
        rows: by label, uint8 (N, H, W, 3), one row each.
        columns: N labels.
        scale: enlargement; by default so that a frame is at least 160 pixels high.

    Returns:
        uint8 (H', W', 3).

    Raises:
        ValueError: if a row has not one frame per column.
    """
    for label, frames in rows.items():
        if len(frames) != len(columns):
            raise ValueError(
                f"row {label!r} has {len(frames)} frames, expected {len(columns)}, one a column"
            )
    height, width = next(iter(rows.values())).shape[1:3]
    scale = scale or enlargement(height)
    height, width = height * scale, width * scale
    font = ImageFont.load_default(size=13)
    margin = 8 + max(int(font.getlength(label)) for label in rows)
    size = (margin + len(columns) * (width + GAP_PX), _LABEL_PX + len(rows) * (height + GAP_PX))
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for column, label in enumerate(columns):
        draw.text((margin + column * (width + GAP_PX) + 2, 1), label, fill="black", font=font)
    for row, (label, frames) in enumerate(rows.items()):
        top = _LABEL_PX + row * (height + GAP_PX)
        draw.text((4, top + height // 2 - 8), label, fill="black", font=font)
        for column, frame in enumerate(frames):
            tile = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
            image.paste(tile, (margin + column * (width + GAP_PX), top))
    return np.asarray(image)


def side_by_side(videos: dict[str, np.ndarray], scale: int | None = None) -> np.ndarray:
    """Put videos of one length beside each other under their labels.

    Args:
        videos: by label, uint8 (T, H, W, 3).
        scale: enlargement, as in `frame_strip`.

    Returns:
        uint8 (T, H', W', 3), with even sides, as video codecs want.
    """
    length, height, width = next(iter(videos.values())).shape[:3]
    scale = scale or enlargement(height)
    height, width = height * scale, width * scale
    full_width = len(videos) * (width + GAP_PX) - GAP_PX
    canvas = Image.new(
        "RGB", (full_width + full_width % 2, _LABEL_PX + height + height % 2), "white"
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    for column, label in enumerate(videos):
        draw.text((column * (width + GAP_PX) + 2, 1), label, fill="black", font=font)
    pages = np.repeat(np.asarray(canvas)[None], length, 0)
    for column, frames in enumerate(videos.values()):
        left = column * (width + GAP_PX)
        enlarged = frames.repeat(scale, 1).repeat(scale, 2)
        pages[:, _LABEL_PX : _LABEL_PX + height, left : left + width] = enlarged
    return pages
