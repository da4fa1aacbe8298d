"""Rollouts as pictures: grids of rows, strips over time, mp4 files, and a grid recorder."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from PIL import Image

from wm_gym.errors import UserError

GAP_PX = 2
GAP_COLOUR = 32
MIN_SIDE_PX = 192  # small frames are enlarged to about this, in whole multiples


def tile(frames: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lay frames out in a grid, row by row from the top left.

    Args:
        frames: (N, H, W, 3) uint8.
        columns: frames per row; as square as possible by default.

    Returns:
        (rows·H + gaps, columns·W + gaps, 3) uint8.
    """
    count, height, width, _ = frames.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    step_y, step_x = height + GAP_PX, width + GAP_PX
    shape = (rows * step_y - GAP_PX, columns * step_x - GAP_PX, 3)
    grid = np.full(shape, GAP_COLOUR, np.uint8)
    for index, frame in enumerate(frames):
        y, x = index // columns * step_y, index % columns * step_x
        grid[y : y + height, x : x + width] = frame
    return grid


def enlarge(frame: np.ndarray, min_side_px: int = MIN_SIDE_PX) -> np.ndarray:
    """Repeat pixels by a whole factor, so that the shorter side reaches about `min_side_px`."""
    factor = max(1, round(min_side_px / min(frame.shape[:2])))
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


def write_mp4(path: str | Path, frames: Sequence[np.ndarray], fps: float) -> Path:
    """Write a video that every player and browser shows.

    Args:
        path: file, its folder is made.
        frames: (H, W, 3) uint8 each, all of one size; small ones are enlarged.
        fps: frames per second, e.g. the card's `action.control_hz`; 10 where that is 0, not known.

    Returns:
        The path.

    Raises:
        ValueError: if there is no frame.
    """
    if not len(frames):
        raise UserError(f"there are no frames to write to {path}; record at least one step")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    large = [enlarge(np.asarray(frame)) for frame in frames]
    odd = [(0, side % 2) for side in large[0].shape[:2]]  # H.264 wants even sides
    video = np.stack([np.pad(frame, [*odd, (0, 0)], mode="edge") for frame in large])
    imageio.imwrite(
        path,
        video,
        fps=fps or 10,
        codec="libx264",
        macro_block_size=2,
        output_params=["-crf", "18"],
    )
    return path


def write_gif(path: str | Path, frames: Sequence[np.ndarray], fps: float) -> Path:
    """Write an animation that a web page shows without a player.

    Args:
        path: file, its folder is made.
        frames: (H, W, 3) uint8 each, all of one size; written as they are, in 64 colours.
        fps: frames per second; 10 where that is 0, not known.

    Returns:
        The path.

    Raises:
        ValueError: if there is no frame.
    """
    if not len(frames):
        raise UserError(f"there are no frames to write to {path}; record at least one step")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    palette = Image.fromarray(np.concatenate(frames)).quantize(64)
    pages = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    pages[0].save(
        path, save_all=True, append_images=pages[1:], duration=round(1000 / (fps or 10)), loop=0
    )
    return path


def write_strip(path: str | Path, rows: Sequence[np.ndarray], count: int = 8) -> Path:
    """Write a PNG with time from left to right.

    Args:
        path: file, its folder is made.
        rows: one (T, H, W, 3) uint8 array per line, e.g. the dream and the truth.
        count: frames per line, evenly spaced, first and last included.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    length = min(len(row) for row in rows)
    times = np.linspace(0, length - 1, min(count, length)).round().astype(int)
    frames = np.concatenate([np.asarray(row)[times] for row in rows])
    imageio.imwrite(path, tile(frames, columns=len(times)))
    return path


class RecordGrid(VectorWrapper):
    """Record all rows of a vector environment, side by side, into one mp4 per `reset`.

    Example:
        >>> import gymnasium, wm_gym
        >>> envs = RecordGrid(gymnasium.make_vec("WM-LangTable-VAE-v0", num_envs=4), "videos")
        >>> _ = envs.reset(seed=0)
        >>> _ = envs.step(envs.action_space.sample())
        >>> envs.close()  # writes videos/grid-0.mp4

    Args:
        env: vector environment whose `render` gives one frame per row.
        folder: where the videos go.
        max_frames: frames per video; further ones are dropped, so that memory stays bounded.
        name: prefix of the file names.
    """

    def __init__(
        self, env: VectorEnv, folder: str | Path, max_frames: int = 1000, name: str = "grid"
    ) -> None:
        super().__init__(env)
        self.folder = Path(folder)
        self.max_frames = max_frames
        self.name = name
        self.videos: list[Path] = []
        self._grids: list[np.ndarray] = []
        self._warned = False
        keep_final_frames = getattr(env.unwrapped, "keep_final_frames", None)
        if keep_final_frames is not None:
            keep_final_frames()

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Reset; a reset of all rows ends the video before it and begins another."""
        everything = (options or {}).get("reset_mask") is None
        result = self.env.reset(seed=seed, options=options)
        if everything:
            self.save()
        self._capture()
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict]:
        """Step, and keep the grid.

        Where an episode ended and the next began in one step (autoreset "SameStep"), two grids are
        kept: one with the last frame of the old episode, one with the first of the new.
        """
        result = self.env.step(actions)
        final = self._final_frames(result[-1])
        if final:
            self._capture(final)
        self._capture()
        return result

    def _final_frames(self, infos: dict[str, Any]) -> dict[int, np.ndarray]:
        """Last frames of the episodes that ended in a step which also began the next, by row."""
        kept = getattr(self.env.unwrapped, "final_frames", None)
        if kept is not None or "final_obs" not in infos:
            return kept or {}
        ended = np.flatnonzero(infos["_final_obs"]).tolist()
        frames: Any = self.env.render()
        final = {row: np.asarray(infos["final_obs"][row]) for row in ended}
        pictures = {row: f for row, f in final.items() if f.shape == frames[row].shape}
        if len(pictures) < len(final) and not self._warned:
            self._warned = True
            warnings.warn(
                f"the last frames of episodes are not in the video: {self.env.unwrapped} begins "
                "the next one in the same step and observes no pictures; make it with "
                "autoreset_mode 'NextStep'",
                stacklevel=3,
            )
        return pictures

    def save(self) -> Path | None:
        """Write what was recorded; None if nothing was."""
        if not self._grids:
            return None
        path = self.folder / f"{self.name}-{len(self.videos)}.mp4"
        write_mp4(path, self._grids, self.env.metadata.get("render_fps", 10))
        self._grids = []
        self.videos.append(path)
        return path

    def close(self, **kwargs: Any) -> None:
        """Write the last video and close the environment."""
        self.save()
        self.env.close(**kwargs)

    def _capture(self, instead: Mapping[int, np.ndarray] | None = None) -> None:
        if len(self._grids) < self.max_frames:
            frames: Any = self.env.render()
            given: dict[int, Any] = dict(instead or {})
            shown = [given.get(row, frame) for row, frame in enumerate(frames)]
            self._grids.append(tile(np.stack(shown)))
