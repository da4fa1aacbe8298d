"""Recorded clips that rollouts are compared with: which ones, from where to where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wm_gym.data.episodes import EpisodeReader
from wm_gym.data.frames import resize_views
from wm_gym.data.open_dataset import open_dataset, read_actions_as
from wm_gym.data.recording_checks import STRICT, Accepted, check_recordings
from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.spec import WorldModelSpec


@dataclass(frozen=True)
class OpenLoopClips:
    """Clips of one length, N of them, T steps after a history of n frames.

    Attributes:
        frames: (N, n + T, H, W, 3) uint8; repeated after a clip's end.
        actions: (N, n - 1 + T, A) float32; zero after a clip's end.
        steps: (N,) steps that are recorded, at most T.
        history: n.
        states: (N, 1 + T, S) float64, the simulator's state at the start and after every step,
            repeated after a clip's end; None if none were recorded.
    """

    frames: np.ndarray
    actions: np.ndarray
    steps: np.ndarray
    history: int
    states: np.ndarray | None = None

    @property
    def start(self) -> np.ndarray:
        """The frame that rollouts begin from, (N, H, W, 3)."""
        return self.frames[:, self.history - 1]

    @property
    def truth(self) -> np.ndarray:
        """What was recorded after it, (N, T, H, W, 3)."""
        return self.frames[:, self.history :]


def open_recorded(
    folder: Path,
    spec: WorldModelSpec,
    cameras: tuple[str, ...] = (),
    accepted: Accepted = STRICT,
) -> EpisodeReader:
    """Open episodes that a model is compared with.

    Args:
        folder: any layout of `wm_gym.data.open_dataset`.
        spec: card of the model.
        cameras: of the dataset.
        accepted: what of the data may contradict the card.

    Raises:
        ValueError: if there are not as many cameras as the model has views.
        EpisodeError: if the actions are not those of the card.
    """
    if max(1, len(cameras)) != spec.num_views:
        raise UserError(
            f"{spec.name} sees {spec.num_views} camera(s) side by side, got --cameras "
            f"{list(cameras)}; name as many, in the order the model was trained with"
        )
    data = read_actions_as(open_dataset(folder, cameras or None), spec.action)
    check_recordings(data, spec.action, accepted)
    return data


def sample_clips(
    dataset: EpisodeReader, spec: WorldModelSpec, clips: int, steps: int, seed: int
) -> OpenLoopClips:
    """Choose episodes without repetition and a start in each.

    Args:
        dataset: episodes.
        spec: card of the model: frame size, history and frame skip.
        clips: number of clips; fewer if there are fewer usable episodes.
        steps: T; an episode that is shorter gives a shorter clip.
        seed: of the choice.

    Raises:
        ValueError: if fewer than two episodes are long enough for one step.
    """
    rng = np.random.default_rng(seed)
    skip, history = spec.action.frame_skip, spec.context.history
    lengths = dataset.lengths // skip
    usable = rng.permutation(np.flatnonzero(lengths >= history))[:clips]
    if len(usable) < 2:
        raise UserError(
            f"{dataset.folder} has {len(usable)} episodes of at least {history * skip} actions, "
            "expected 2 or more; collect longer episodes"
        )
    frames, actions, recorded, privileged = [], [], [], []
    for episode in usable:
        start = rng.integers(max(0, lengths[episode] - (history - 1 + steps)) + 1)
        available = int(min(steps, lengths[episode] - start - (history - 1)))
        states = (start + np.arange(history + steps).clip(max=history - 1 + available)) * skip
        shown = dataset.frames(int(episode), states)
        seen = resize_views(shown, spec.frame.height, spec.frame.width, spec.num_views)
        taken = np.zeros((history - 1 + steps, spec.action.size), np.float32)
        whole = dataset.actions(int(episode))[start * skip :: skip][: history - 1 + available]
        if whole.shape[1] != spec.action.size:
            raise UserError(
                f"{dataset.folder} has actions of {whole.shape[1]} components, the model's card "
                f"says {spec.action.size}: {list(spec.action.names)}; use episodes of its domain, "
                "or say with --id or --checkpoint which model they are of"
            )
        taken[: len(whole)] = whole
        frames.append(seen)
        actions.append(taken)
        recorded.append(available)
        privileged.append(dataset.labels(int(episode))[0][states[history - 1 :]])
    known = np.stack(privileged) if privileged[0].shape[-1] else None
    return OpenLoopClips(
        np.stack(frames), np.stack(actions), np.asarray(recorded), history, states=known
    )
