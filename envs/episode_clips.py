"""What a judge will see of episodes under way: the pictures it looks at, decoded when it is asked.

An episode that a judge scores always has as many steps as the horizon, so it is known from the
start which of its pictures will be needed; the others are never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from wm_gym.errors import UserError
from wm_gym.judges.verdicts import Clip, evenly

DECODED_AT_ONCE = 64


class EpisodeClips:
    """Pictures of B rows by step, as frames (H, W, 3) uint8 or as latents (h, w, D) float32.

    Args:
        rows: B.
        horizon: steps of every episode.
        frames: how many frames the judge looks at, see `evenly`.
        decode: latents (N, h, w, D) to frames (N, H, W, 3) uint8.
    """

    def __init__(
        self,
        rows: int,
        horizon: int,
        frames: int,
        decode: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.wanted: list[int] = evenly(horizon + 1, frames).tolist()
        self.shown: list[dict[int, np.ndarray]] = [{} for _ in range(rows)]
        self._decode = decode

    def begin(self, row: int, frame: np.ndarray) -> None:
        """Forget a row's pictures and begin with its start frame, step 0."""
        self.shown[row] = {}
        self.show(row, 0, frame)

    def show(self, row: int, step: int, picture: np.ndarray | torch.Tensor) -> None:
        """Keep a picture if it will be needed; a frame takes the place of its latents."""
        if step not in self.wanted:
            return
        if isinstance(picture, torch.Tensor):
            picture = picture.float().cpu().numpy()
        self.shown[row][step] = picture.copy()

    def clips(self, rows: Sequence[int]) -> list[Clip]:
        """The clips of rows whose episodes are at their horizon; latents are decoded in batches."""
        waiting = [
            (row, step)
            for row in rows
            for step, picture in self.shown[row].items()
            if picture.dtype != np.uint8
        ]
        for first in range(0, len(waiting), DECODED_AT_ONCE):
            some = waiting[first : first + DECODED_AT_ONCE]
            latents = torch.from_numpy(np.stack([self.shown[row][step] for row, step in some]))
            for (row, step), frame in zip(some, self._decode(latents).cpu().numpy(), strict=True):
                self.shown[row][step] = frame
        return [Clip(np.stack([self.shown[row][step] for step in self.wanted])) for row in rows]

    def restore(self, shown: list[dict[int, np.ndarray]] | None, steps: Sequence[int]) -> None:
        """Take over the pictures of a snapshot whose episodes have made so many steps.

        Raises:
            ValueError: if it does not hold the pictures that are needed; nothing changed.
        """
        needed = [[step for step in self.wanted if step <= made] for made in steps]
        if shown is None or [sorted(row) for row in shown] != needed:
            raise UserError(
                "the snapshot does not hold the pictures since the start that this environment's "
                "judge looks at; take it in an environment with the same judge and horizon"
            )
        self.shown = shown
