"""Single frames of a folder of latents, as the recipes around a frozen encoder read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_gym.data.latent_clips import check_latents_folder
from wm_gym.errors import UserError


class LatentFrames:
    """Frames of episodes that train, and of those at the end that are kept out.

    Several cameras side by side are frames of their own: what reads single frames never sees two
    cameras at once.

    Args:
        folder: written by `wm-gym train latents`.
        held_out: episodes kept out.

    Attributes:
        source: what the latents were made with.
        views: cameras side by side.
        bounds: (E + 1,) first row of each episode.
        grid: (h, w) of one camera's latents.
        channels: D.

    Raises:
        ValueError: if no episode is left to train on.
    """

    def __init__(self, folder: Path, held_out: int) -> None:
        self.folder = check_latents_folder(folder)
        self.source: dict[str, Any] = json.loads(
            (folder / "source.json").read_text(encoding="utf-8")
        )
        self.views = max(1, len(self.source.get("cameras", ())))
        self.latents = np.load(folder / "latents.npy", mmap_mode="r")
        self.bounds: np.ndarray = np.load(folder / "bounds.npy")
        height, width, self.channels = self.latents.shape[1:]
        self.grid = (height, width // self.views)
        episodes = len(self.bounds) - 1
        if not 0 < held_out < episodes:
            raise UserError(
                f"{folder} holds {episodes} episodes, expected more than the {held_out} kept out, "
                "and at least 1 of those; collect more or change --held-out"
            )
        self.split = int(self.bounds[episodes - held_out])

    def __len__(self) -> int:
        """Number of training frames, every camera's counted."""
        return self.split * self.views

    def draw(self, seed: int, step: int, batch: int) -> np.ndarray:
        """Numbers (B,) of random training frames, a pure function of seed and step."""
        return np.random.default_rng([seed, step]).integers(len(self), size=batch)

    def held_out(self, count: int) -> np.ndarray:
        """Numbers of up to `count` frames of the episodes kept out, spread over them evenly."""
        last = len(self.latents) * self.views
        numbers = np.linspace(len(self), last - 1, min(count, last - len(self)))
        return numbers.round().astype(np.int64)

    def read(self, numbers: np.ndarray) -> Tensor:
        """Raw latents (B, h, w, D) float32 of numbered frames."""
        rows, views = numbers // self.views, numbers % self.views
        width = self.grid[1]
        frames = [
            self.latents[row, :, view * width : (view + 1) * width]
            for row, view in zip(rows.tolist(), views.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(frames).astype(np.float32))

    def locate(self, numbers: np.ndarray) -> list[tuple[int, int, int]]:
        """Episode, state and camera of numbered frames."""
        rows, views = numbers // self.views, numbers % self.views
        episodes = np.searchsorted(self.bounds, rows, side="right") - 1
        states = rows - self.bounds[episodes]
        return list(zip(episodes.tolist(), states.tolist(), views.tolist(), strict=True))
