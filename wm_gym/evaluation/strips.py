"""Strips of frames, labelled and enlarged, for looking at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from wm_gym.envs.video import write_mp4, write_strip
from wm_gym.errors import UserError
from wm_gym.evaluation.captions import LINE_PX, draw_lines, text_width, wrap

GAP_PX = 4
_INSET_PX = 2
"""From the edge of a frame's column or row to its label."""
_CAPTION_LINES = 3
_MARGIN_PX = 120
"""Room for the labels of rows, at most."""
_MIN_SIDE_PX = 160


def enlargement(height: int) -> int:
    """Whole factor that makes frames of this height at least 160 pixels high."""
    return max(1, -(-_MIN_SIDE_PX // height))


def _captions(labels: Sequence[str], width: int) -> tuple[list[list[str]], int]:
    """Lines of the captions over columns of that width, and the height of their band."""
    lines = [wrap(label, width - 2 * _INSET_PX, _CAPTION_LINES) for label in labels]
    return lines, _INSET_PX + LINE_PX * max([1, *(len(caption) for caption in lines)])


def frame_strip(
    rows: dict[str, np.ndarray], columns: Sequence[str], scale: int | None = None
) -> np.ndarray:
    """Lay out frames as a labelled table.

    Args:
        rows: by label, uint8 (N, H, W, 3), one row each. Long labels are wrapped beside their row.
        columns: N labels.
        scale: enlargement; by default so that a frame is at least 160 pixels high.

    Returns:
        uint8 (H', W', 3).

    Raises:
        ValueError: if a row has not one frame per column.
    """
    for label, frames in rows.items():
        if len(frames) != len(columns):
            raise UserError(
                f"row {label!r} has {len(frames)} frames, expected {len(columns)}, one a column"
            )
    height, width = next(iter(rows.values())).shape[1:3]
    scale = scale or enlargement(height)
    height, width = height * scale, width * scale
    captions, band = _captions(columns, width)
    beside = [wrap(label, _MARGIN_PX, height // LINE_PX) for label in rows]
    widest = max((text_width(line) for lines in beside for line in lines), default=0)
    margin = 4 * _INSET_PX + widest
    size = (margin + len(columns) * (width + GAP_PX), band + len(rows) * (height + GAP_PX))
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for column, lines in enumerate(captions):
        draw_lines(draw, margin + column * (width + GAP_PX) + _INSET_PX, 1, lines)
    for row, (frames, lines) in enumerate(zip(rows.values(), beside, strict=True)):
        top = band + row * (height + GAP_PX)
        draw_lines(draw, 2 * _INSET_PX, top + (height - LINE_PX * len(lines)) // 2, lines)
        for column, frame in enumerate(frames):
            tile = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
            image.paste(tile, (margin + column * (width + GAP_PX), top))
    return np.asarray(image)


def of_one_length(videos: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Videos (T, H, W, 3) that stay at their last frame until the longest has ended."""
    longest = max(map(len, videos))
    rest = [(0, 0)] * 3
    return [np.pad(v, [(0, longest - len(v)), *rest], mode="edge") for v in videos]


def write_pictures(
    folder: str | Path, name: str, scenes: Sequence[Mapping[str, np.ndarray | None]], fps: float
) -> tuple[Path, Path]:
    """Write scenes as one video, each beside its others, and as a strip; print where.

    Args:
        folder: folder to write to.
        name: of both files, without ending.
        scenes: shown one after the other; each is videos by label, uint8 (T, H, W, 3), as many in
            every scene.
        fps: frames per second.

    Returns:
        The mp4 and the PNG.

    Raises:
        ValueError: if an episode has not kept its frames.
    """
    shown: list[dict[str, np.ndarray]] = []
    for scene in scenes:
        shown.append({})
        for label, frames in scene.items():
            if frames is None:
                raise UserError(f"{label!r} has kept no frames: run it with keep_frames=True")
            shown[-1][label] = frames
    pages = [side_by_side(scene) for scene in shown]
    height = max(page.shape[1] for page in pages)  # captions differ in their number of lines
    blank = [(0, 0), (0, 0), (0, 0)]
    pages = [
        np.pad(page, [blank[0], (0, height - page.shape[1]), *blank[1:]], constant_values=255)
        for page in pages
    ]
    video = write_mp4(Path(folder) / f"{name}.mp4", list(np.concatenate(pages)), fps)
    rows = of_one_length([frames for scene in shown for frames in scene.values()])
    picture = write_strip(Path(folder) / f"{name}.png", rows)
    print(f"video:   {video.resolve()}\npicture: {picture.resolve()}")
    return video, picture


def side_by_side(videos: dict[str, np.ndarray], scale: int | None = None) -> np.ndarray:
    """Put videos beside each other under their labels; the shorter ones stay at their last frame.

    Args:
        videos: by label, uint8 (T, H, W, 3). A label is wrapped over its own video.
        scale: enlargement, as in `frame_strip`.

    Returns:
        uint8 (T, H', W', 3), with even sides, as video codecs want.
    """
    videos = dict(zip(videos, of_one_length(list(videos.values())), strict=True))
    length, height, width = next(iter(videos.values())).shape[:3]
    scale = scale or enlargement(height)
    height, width = height * scale, width * scale
    captions, band = _captions(list(videos), width)
    full_width = len(videos) * (width + GAP_PX) - GAP_PX
    full_height = band + height
    canvas = Image.new("RGB", (full_width + full_width % 2, full_height + full_height % 2), "white")
    draw = ImageDraw.Draw(canvas)
    for column, lines in enumerate(captions):
        draw_lines(draw, column * (width + GAP_PX) + _INSET_PX, 1, lines)
    pages = np.repeat(np.asarray(canvas)[None], length, 0)
    for column, frames in enumerate(videos.values()):
        left = column * (width + GAP_PX)
        enlarged = frames.repeat(scale, 1).repeat(scale, 2)
        pages[:, band : band + height, left : left + width] = enlarged
    return pages
