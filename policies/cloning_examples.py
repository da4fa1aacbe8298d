"""Examples to imitate, from episodes with privileged states: frames, goals, clean labels, places.

An expert whose hand trembles visits states that a clean one would not. The labels are clean: where
a noisy expert acted, one without noise is asked again in every recorded state, at one fixed pace.
Without them the recorded actions are imitated, whoever acted: plain behaviour cloning, with nothing
that a world model of the same episodes does not have.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from wm_gym.checkpoints import write_atomically
from wm_gym.data.episodes import Episode, EpisodeDataset
from wm_gym.envs.sims.teachers import Teacher
from wm_gym.errors import UserError
from wm_gym.spec import ActionSpec

Labels = Literal["clean", "recorded"]


class CloningExamples:
    """Frames with goals, labels and positions, N of them.

    Args:
        datasets: episodes with privileged states.
        teacher: says what a clean expert would do in them, and where things are.
        action: bounds of the actions, whose middle is 0 and whose half range is 1.
        tasks: tasks to use.
        behaviours: whose episodes to use.
        chunk: actions of one example.
        cache: file that keeps clean labels, because asking the expert takes minutes.
        labels: what a clean expert would do, or what was done.

    Raises:
        ValueError: if the datasets hold no such episodes.
    """

    def __init__(
        self,
        datasets: Sequence[EpisodeDataset],
        teacher: Teacher,
        action: ActionSpec,
        *,
        tasks: Sequence[str],
        behaviours: Sequence[str],
        chunk: int,
        cache: Path,
        labels: Labels = "clean",
    ) -> None:
        self.datasets, self.chunk = datasets, chunk
        self.where: list[tuple[int, int, int]] = []  # dataset, episode and state of each example
        self.goals, self.labels, self.positions = {}, {}, {}
        chosen = [
            (number, index)
            for number, dataset in enumerate(datasets)
            for index, goal in enumerate(dataset.goals)
            if goal.task in tasks and dataset.behaviours[index] in behaviours
        ]
        if not chosen:
            raise UserError(
                f"{[str(dataset.folder) for dataset in datasets]} hold no episodes of tasks "
                f"{tasks} by {behaviours}: collect some"
            )
        clean = labels == "clean"
        known = dict(np.load(cache)) if clean and cache.exists() else {}
        low, high = np.asarray(action.low, np.float32), np.asarray(action.high, np.float32)
        middle, half = (high + low) / 2, (high - low) / 2
        doing = "asking the expert" if clean else "reading actions"
        for count, at in enumerate(tqdm(chosen, desc=doing, unit="episode"), 1):
            dataset = datasets[at[0]]
            episode = dataset[at[1]]
            key = _content(episode)
            if not clean:
                known[key] = (episode.actions - middle) / half
            elif key not in known:
                known[key] = (teacher.labels(episode) - middle) / half
                if count % 200 == 0:
                    _write_labels(cache, known)
            self.goals[at], self.labels[at] = episode.goal, known[key]
            self.positions[at] = teacher.places(episode.privileged, episode.goal)
            self.where += [(*at, int(state)) for state in np.flatnonzero(~episode.success[:-1])]
        if clean:
            _write_labels(cache, known)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.where)

    def batch(self, indices: np.ndarray) -> tuple[torch.Tensor, list, torch.Tensor, torch.Tensor]:
        """Some examples.

        Returns:
            Frames uint8 (B, H, W, 3), B goals, actions (B, n, A) in units of half the range with
            NaN past an episode's end, positions (B, 1 + objects, 2) of effector and objects with
            NaN for what is not there.
        """
        frames, goals, actions, positions = [], [], [], []
        for index in indices:
            *at, state = self.where[int(index)]
            at = tuple(at)
            frames.append(self.datasets[at[0]].frames(at[1], slice(state, state + 1))[0])
            goals.append(self.goals[at])
            ahead = self.labels[at][state : state + self.chunk]
            chunk = np.full((self.chunk, ahead.shape[1]), np.nan, np.float32)
            chunk[: len(ahead)] = ahead
            actions.append(chunk)
            positions.append(self.positions[at][state])
        return (
            torch.from_numpy(np.stack(frames)),
            goals,
            torch.from_numpy(np.stack(actions)),
            torch.from_numpy(np.stack(positions)),
        )


def _content(episode: Episode) -> str:
    """What labels depend on: folders may have one name, and be collected anew with other noise."""
    digest = hashlib.sha256(f"{episode.behaviour} {episode.instruction}".encode())
    for array in (episode.privileged, episode.actions):
        digest.update(
            f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        )
    return digest.hexdigest()[:32]


class PlacedFrames:
    """Frames with the positions of what is in them, from whole datasets.

    Args:
        datasets: episodes with privileged states.
        teacher: says where things are.
    """

    def __init__(self, datasets: Sequence[EpisodeDataset], teacher: Teacher) -> None:
        self.datasets = datasets
        self.positions = [
            [teacher.places(e.privileged, e.goal) for e in dataset] for dataset in datasets
        ]
        lengths = [len(episode) for episodes in self.positions for episode in episodes]
        self.ends = np.cumsum(lengths)
        self.places = [
            (k, i) for k, episodes in enumerate(self.positions) for i in range(len(episodes))
        ]

    def __len__(self) -> int:
        """Number of frames."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def batch(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Some frames uint8 (B, H, W, 3) and their positions (B, 1 + objects, 2)."""
        frames, positions = [], []
        for index in indices:
            place = int(np.searchsorted(self.ends, index, side="right"))
            number, episode = self.places[place]
            state = int(index - (self.ends[place - 1] if place else 0))
            frames.append(self.datasets[number].frames(episode, slice(state, state + 1))[0])
            positions.append(self.positions[number][episode][state])
        return torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(positions))


def _write_labels(path: Path, labels: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **labels)  # pyright: ignore[reportArgumentType]
    write_atomically(path, buffer.getvalue())
