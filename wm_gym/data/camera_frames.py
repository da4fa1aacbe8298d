"""Frames of a dataset at one size, every camera's on its own."""

from __future__ import annotations

import numpy as np

from wm_gym.data.episodes import EpisodeReader
from wm_gym.data.frames import resize, split_views


class CameraFrames:
    """What a recipe over single frames reads of episodes: frames of one size.

    Args:
        data: episodes; several cameras stand side by side along the width.
        height: rows of the frames.
        width: columns of one camera's frames.
        views: number of cameras.
    """

    def __init__(self, data: EpisodeReader, height: int, width: int, views: int = 1) -> None:
        self.data, self.height, self.width, self.views = data, height, width, views

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.data)

    @property
    def lengths(self) -> np.ndarray:
        """Number of actions T of each episode, (E,)."""
        return self.data.lengths

    def frames(self, index: int, states: slice) -> np.ndarray:
        """Frames (V·n, H, W, 3) uint8 of n states of one episode, camera by camera."""
        seen = self.data.frames(index, states)
        if self.views > 1:
            seen = np.concatenate(list(split_views(seen, self.views)))
        return resize(seen, self.height, self.width)
