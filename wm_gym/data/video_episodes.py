"""What readers of recorded robot data share: rows of frames and actions become episodes.

Such data hold N rows for an episode, frame i beside the action taken AT frame i. The last action
leads to a state that nobody recorded, so an episode has N states and N - 1 actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from wm_gym.data.episodes import Episode, EpisodeError, check_finite
from wm_gym.data.video import OpenVideos
from wm_gym.instructions import Goal


class VideoEpisodes(ABC):
    """Episodes with the reading interface of `wm_gym.data.episodes.EpisodeDataset`.

    Several cameras give frames side by side along the width, in the order asked for.

    Attributes:
        folder: where they lie.
        cameras: names of the cameras that are read.
        fps: rows per second, which is the control rate.
        action_names: one name per component of an action, as far as known.
    """

    folder: Path
    cameras: tuple[str, ...]
    fps: float
    action_names: tuple[str, ...]

    def __init__(self) -> None:
        self._videos = OpenVideos()
        self._actions: dict[int, np.ndarray] = {}

    @abstractmethod
    def _count_rows(self) -> list[int]:
        """Number of recorded rows N of each episode."""

    @abstractmethod
    def _read_instructions(self) -> list[str]:
        """Instruction of each episode."""

    @abstractmethod
    def _camera_frames(self, index: int, camera: str, states: np.ndarray) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 of one camera."""

    @abstractmethod
    def _row_actions(self, index: int) -> np.ndarray:
        """Actions of all rows, (N, A)."""

    def _row_success(self, index: int) -> np.ndarray:
        """Whether the goal holds in each state, (N,); unknown counts as no."""
        return np.zeros(self.rows[index], bool)

    @cached_property
    def rows(self) -> np.ndarray:
        """Number of recorded rows N of each episode, (E,)."""
        return np.asarray(self._count_rows())

    @cached_property
    def _instructions(self) -> list[str]:
        return self._read_instructions()

    @property
    def instructions(self) -> list[str]:
        """Instruction of each episode; empty where none is recorded."""
        return self._instructions

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Episode]:
        """The episodes in order."""
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """Number of actions T = N - 1 of each episode, (E,)."""
        return self.rows - 1

    @property
    def behaviours(self) -> list[str]:
        """Who acted: not recorded."""
        return [""] * len(self)

    @property
    def seeds(self) -> list[int]:
        """Seeds: recordings have none."""
        return [0] * len(self)

    @property
    def goals(self) -> list[Goal]:
        """Goals in words only."""
        return [Goal("")] * len(self)

    def _number(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} does not exist; {self.folder} holds {len(self)}")
        return index % len(self)

    def frames(self, index: int, states: slice | np.ndarray | None = None) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 of some states of one episode, without decoding the rest.

        Args:
            index: number of the episode.
            states: a slice or an array of state numbers in 0..T; None for all.

        Raises:
            EpisodeError: if a video is missing, truncated or shorter than its episode.
        """
        index = self._number(index)
        chosen = np.arange(self.rows[index])[slice(None) if states is None else states]
        views = [self._camera_frames(index, camera, chosen) for camera in self.cameras]
        if len({view.shape for view in views}) > 1:
            sizes = {c: v.shape[1:3] for c, v in zip(self.cameras, views, strict=True)}
            raise EpisodeError(
                f"{self.folder}: cameras differ in frame size {sizes}, expected one size to put "
                "them side by side; choose cameras of one size"
            )
        return views[0] if len(views) == 1 else np.concatenate(views, axis=2)

    def actions(self, index: int) -> np.ndarray:
        """Actions (T, A) float32 of one episode; `actions[t]` leads from frame t to frame t + 1."""
        index = self._number(index)
        if index not in self._actions:
            actions = self._row_actions(index)
            if len(actions) != self.rows[index]:
                raise EpisodeError(
                    f"{self.folder}: episode {index} has {len(actions)} actions, expected "
                    f"{self.rows[index]}, one per row; copy or download the dataset again"
                )
            taken = np.asarray(actions[:-1], np.float32)
            self._actions[index] = check_finite(taken, self.folder, index)
        return self._actions[index]

    def labels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Privileged state (T+1, 0), none being recorded, and success (T+1,) of one episode."""
        index = self._number(index)
        return np.zeros((self.rows[index], 0)), self._row_success(index)

    def __getitem__(self, index: int) -> Episode:
        """Episode `index`; negative numbers count from the end."""
        index = self._number(index)
        privileged, success = self.labels(index)
        return Episode(
            frames=self.frames(index),
            actions=self.actions(index),
            privileged=privileged,
            success=success,
            instruction=self.instructions[index],
        )


def choose_cameras(
    folder: Path, known: Sequence[str], asked: str | Sequence[str] | None
) -> tuple[str, ...]:
    """The full names of the cameras asked for; one that is alone need not be named.

    Args:
        folder: named in errors.
        known: cameras of the dataset.
        asked: full names, or the part after the last dot where that is unique.

    Raises:
        EpisodeError: naming the cameras there are.
    """
    if not known:
        raise EpisodeError(f"{folder} has no camera, expected at least one; record frames, too")
    names = [asked] if isinstance(asked, str) else list(asked or ())
    if not names:
        if len(known) > 1:
            raise EpisodeError(
                f"{folder} has several cameras {list(known)}, expected a choice; pass cameras=..., "
                "e.g. "
                f"cameras={known[0]!r} (several give views side by side)"
            )
        return (known[0],)
    chosen = []
    for name in names:
        matches = [name] if name in known else [k for k in known if k.split(".")[-1] == name]
        if len(matches) != 1:
            raise EpisodeError(f"{folder} has no camera {name!r}, expected one of {list(known)}")
        chosen.append(matches[0])
    return tuple(chosen)
