"""Clips of episodes: frames and actions cut out together, never slipping by one.

Slot i of a clip shows the state at position `start + i * frame_skip` of its episode. With alignment
"target" the slot holds the actions that PRODUCED that state, with "
""source" the actions TAKEN in it. Positions before the episode
repeat its first frame, positions after it repeat the last one; such slots, and the first state
under "target", have no action: zeros, and `known` is False there (a model puts its null action in
their place).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wm_gym.data.episodes import EpisodeReader
from wm_gym.errors import UserError

Alignment = Literal["target", "source"]


@dataclass(frozen=True)
class Slots:
    """Where the content of clips lies in their episodes; B clips of T slots.

    Attributes:
        states: (B, T) int64, state shown by each slot.
        actions: (B, T, frame_skip) int64, actions of each slot in order of time; 0 where unknown.
        known: (B, T) bool, whether the slot has actions.
        valid: (B, T) bool, False where a frame is only repeated.
    """

    states: np.ndarray
    actions: np.ndarray
    known: np.ndarray
    valid: np.ndarray


def align(
    starts: np.ndarray, steps: np.ndarray, length: int, frame_skip: int, alignment: Alignment
) -> Slots:
    """Place the slots of clips in their episodes; nothing else decides which action a frame gets.

    Args:
        starts: (B,) position of slot 0; a negative one must be a multiple of `frame_skip`.
        steps: (B,) number of actions of each episode.
        length: slots per clip, T.
        frame_skip: actions between neighbouring slots.
        alignment: "target" or "source".

    Raises:
        ValueError: if an argument is out of its range.
    """
    if alignment not in ("target", "source"):
        raise UserError(f"alignment {alignment!r} is unknown, expected 'target' or 'source'")
    if length < 1 or frame_skip < 1:
        raise UserError(f"length {length} and frame_skip {frame_skip} must be at least 1")
    starts, steps = np.asarray(starts, np.int64), np.asarray(steps, np.int64)
    if np.any((starts < 0) & (starts % frame_skip != 0)) or np.any(starts > steps):
        raise UserError(
            f"clip starts {starts.tolist()[:8]} must be at most the episode's last state, and "
            "multiples of "
            f"frame_skip={frame_skip} where negative, so that the grid meets the first state"
        )
    positions = starts[:, None] + frame_skip * np.arange(length)  # (B, T)
    # the grid's last state, not the episode's: a repeated frame must not hide a shorter step
    last = (steps - (steps - starts) % frame_skip)[:, None]
    valid = (positions >= 0) & (positions <= last)
    offsets = np.arange(-frame_skip, 0) if alignment == "target" else np.arange(frame_skip)
    actions = positions[..., None] + offsets  # (B, T, frame_skip)
    known = valid & (actions[..., 0] >= 0) & (actions[..., -1] < steps[:, None])
    return Slots(
        states=np.clip(positions, 0, last),
        actions=np.where(known[..., None], actions, 0),
        known=known,
        valid=valid,
    )


class ClipStarts:
    """All places where a clip may start, to be drawn uniformly or by weight.

    Args:
        steps: (E,) number of actions of each episode.
        length: slots per clip.
        frame_skip: actions between neighbouring slots.
        pad_start: slots that may lie before an episode's first state.
        pad_end: slots that may lie after an episode's last state.

    Raises:
        ValueError: if no clip fits into any episode.
    """

    def __init__(
        self, steps: np.ndarray, length: int, frame_skip: int, pad_start: int, pad_end: int
    ):
        self.steps = np.asarray(steps, np.int64)
        if not 0 <= pad_start < length or not 0 <= pad_end < length:
            raise UserError(
                f"pad_start {pad_start} and pad_end {pad_end} must lie in 0..{length - 1}, so "
                "that a clip of "
                f"{length} frames shows at least one state"
            )
        self.frame_skip, self.pad_start = frame_skip, pad_start
        latest = self.steps - (length - 1 - pad_end) * frame_skip
        self._inside = np.maximum(latest + 1, 0)  # starts 0..latest
        # a padded start is open only to episodes that a whole grid from there fits into
        early = np.arange(pad_start, 0, -1) * -frame_skip  # (pad_start,)
        self._before = (early[None] <= latest[:, None]).sum(1)
        self._bounds = np.cumsum(self._inside + self._before)
        if len(self.steps) == 0 or self._bounds[-1] == 0:
            raise UserError(
                f"no episode is long enough for clips of {length} frames with frame_skip "
                f"{frame_skip}: the longest "
                f"has {self.steps.max(initial=0)} actions; shorten the clips or allow padding"
            )

    def __len__(self) -> int:
        """Number of different clips."""
        return int(self._bounds[-1])

    def place(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Episode (B,) and start (B,) of clips numbered 0 to `len(self) - 1`."""
        episodes = np.searchsorted(self._bounds, numbers, side="right")
        first = self._bounds[episodes] - self._inside[episodes] - self._before[episodes]
        rank = numbers - first  # padded starts come first, the earliest of them at rank 0
        before = self._before[episodes]
        padded = (rank - self.pad_start) * self.frame_skip
        return episodes, np.where(rank < before, padded, rank - before)

    def draw(
        self, seed: int, step: int, batch: int, cumulative: np.ndarray | None = None
    ) -> np.ndarray:
        """Clip numbers (batch,), a pure function of seed and step.

        Args:
            seed: of the whole run.
            step: number of the batch.
            batch: clips to draw.
            cumulative: (len(self),) running sum of the clips' weights; None draws uniformly.
        """
        generator = np.random.Generator(np.random.Philox(key=[seed, step]))
        if cumulative is None:
            return generator.integers(len(self), size=batch)
        places = generator.random(batch) * cumulative[-1]
        return np.searchsorted(cumulative, places, side="right")


@dataclass(frozen=True)
class Clip:
    """One clip, or a batch with leading axis B.

    Attributes:
        frames: (T, H, W, 3) uint8, or latents (T, h, w, D).
        actions: (T, frame_skip * A) float32, physical units, zeros where not known.
        known: (T,) bool, whether the slot has an action; otherwise the null action belongs there.
        valid: (T,) bool, False where a frame is only repeated.
        episode: number of the episode, () or (B,).
        states: (T,) state of the episode that each slot shows.
        rows: (T,) row of `LatentClips.latents` that each slot shows; for frames the same as
            `states`.
    """

    frames: np.ndarray
    actions: np.ndarray
    known: np.ndarray
    valid: np.ndarray
    episode: np.ndarray
    states: np.ndarray
    rows: np.ndarray


class ClipDataset:
    """Clips of pixels.

    `dataset[i]` is clip i in the order of episodes and starts; `sample(seed, step, batch)` draws
    clips at random as a pure function of its arguments.

    Args:
        episodes: the episodes.
        length: frames per clip, T.
        frame_skip: actions between neighbouring frames.
        alignment: "target" or "source", as in a card.
        pad_start: frames that may lie before an episode's start (its first frame is repeated).
        pad_end: frames that may lie after its end (its last frame is repeated).
    """

    def __init__(
        self,
        episodes: EpisodeReader,
        length: int,
        frame_skip: int = 1,
        alignment: Alignment = "target",
        pad_start: int = 0,
        pad_end: int = 0,
    ):
        self.episodes = episodes
        self.length, self.frame_skip = length, frame_skip
        self.alignment: Alignment = alignment
        self.starts = ClipStarts(episodes.lengths, length, frame_skip, pad_start, pad_end)

    def __len__(self) -> int:
        """Number of different clips."""
        return len(self.starts)

    def __getitem__(self, index: int) -> Clip:
        """Clip number `index`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} does not exist; there are {len(self)}")
        episode, start = self.starts.place(np.asarray([index % len(self)]))
        return self.cut(int(episode[0]), int(start[0]))

    def cut(self, episode: int, start: int) -> Clip:
        """The clip of one episode whose slot 0 lies at `start`."""
        steps = self.episodes.lengths[[episode]]
        slots = align(np.asarray([start]), steps, self.length, self.frame_skip, self.alignment)
        states, known = slots.states[0], slots.known[0]
        unique, inverse = np.unique(states, return_inverse=True)
        actions = self.episodes.actions(episode)[slots.actions[0]]  # (T, frame_skip, A)
        actions = np.where(known[:, None, None], actions, np.float32(0))
        return Clip(
            frames=self.episodes.frames(episode, unique)[inverse],
            actions=actions.reshape(self.length, -1),
            known=known,
            valid=slots.valid[0],
            episode=np.asarray(episode),
            states=states,
            rows=states,
        )

    def sample(self, seed: int, step: int, batch: int) -> Clip:
        """A batch of random clips, a pure function of seed and step."""
        clips = [self[int(number)] for number in self.starts.draw(seed, step, batch)]
        return Clip(*(np.stack([getattr(c, name) for c in clips]) for name in Clip.__annotations__))
