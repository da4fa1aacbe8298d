"""Clips to calibrate judges on: successes, near misses and other failures, real and imagined.

The truth is the simulator's: what its predicate says of the last state of the recorded clip. The
imagined clip begins at the same frame under the same actions, so it stands for the same outcome,
and what a judge gets wrong there is the dream's error as well as its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from tqdm import tqdm

from wm_gym.data.episodes import EpisodeDataset
from wm_gym.envs.goal_labels import label_states
from wm_gym.errors import UserError
from wm_gym.judges.verdicts import Clip

if TYPE_CHECKING:
    from wm_gym.world_model import LatentWorldModel

Kind = Literal["success", "near miss", "other failure"]
KINDS: tuple[Kind, ...] = ("success", "near miss", "other failure")


@dataclass(frozen=True)
class ClipChoice:
    """Which part of an episode a clip is.

    Attributes:
        episode: number in the dataset.
        end: its last state; it begins `horizon` steps earlier.
        kind: what the simulator says of the last state.
        task: of the episode's goal.
        instruction: of the episode.
    """

    episode: int
    end: int
    kind: Kind
    task: str
    instruction: str

    @property
    def success(self) -> bool:
        """The truth."""
        return self.kind == "success"


def choose_clips(
    data: EpisodeDataset,
    simulator: str | None,
    *,
    horizon: int,
    per_kind: int,
    near_miss_m: float,
    seed: int,
) -> list[ClipChoice]:
    """Draw up to `per_kind` clips of each kind and task, at most one of a kind from an episode.

    Args:
        data: held-out episodes with privileged states.
        simulator: the id they come from.
        horizon: steps of a clip.
        per_kind: clips of each kind and task.
        near_miss_m: how far outside the farthest success a failure still is a near miss, in metres.
        seed: of the drawing.

    Raises:
        ValueError: if no episode is long enough, or the simulator has no predicates.
    """
    rng = np.random.default_rng([seed, 0])
    order = rng.permutation(np.flatnonzero(np.asarray(data.lengths) >= horizon)).tolist()
    if not order:
        raise UserError(
            f"{data.folder} has no episode of at least {horizon} steps; lower --horizon"
        )
    episodes = [data[number] for number in order]
    lengths = [len(episode.privileged) for episode in episodes]
    labels = label_states(
        np.concatenate([episode.privileged for episode in episodes]),
        simulator,
        np.repeat([episode.goal.task for episode in episodes], lengths).tolist(),
    )
    bounds = np.cumsum([0, *lengths])
    tracks: list[tuple[np.ndarray, np.ndarray]] = []  # success and distance under the own goal
    edges: dict[str, float] = {}
    for first, last, episode in zip(bounds[:-1], bounds[1:], episodes, strict=True):
        goal = [episode.goal.task, *episode.goal.objects, ""][:3]
        column = [list(entry) for entry in labels.goals].index(goal)
        success = labels.success[first:last, column]
        distance = labels.distance_m[first:last, column]
        tracks.append((success, distance))
        edge = float(distance[success].max()) if success.any() else 0.0
        edges[goal[0]] = max(edges.get(goal[0], 0.0), edge)
    taken: dict[tuple[str, Kind], int] = {}
    chosen = []
    for number, episode, (success, distance) in zip(order, episodes, tracks, strict=True):
        task = episode.goal.task
        near = ~success & (distance < edges[task] + near_miss_m)
        for kind, mask in zip(KINDS, (success, near, ~success & ~near), strict=True):
            ends = np.flatnonzero(mask[horizon:]) + horizon
            if len(ends) and taken.get((task, kind), 0) < per_kind:
                taken[task, kind] = taken.get((task, kind), 0) + 1
                end = int(rng.choice(ends))
                chosen.append(ClipChoice(number, end, kind, task, episode.instruction))
    return chosen


def real_clips(data: EpisodeDataset, chosen: Sequence[ClipChoice], horizon: int) -> list[Clip]:
    """The clips as they were recorded, with the simulator's states."""
    clips = []
    for choice in chosen:
        episode, part = data[choice.episode], slice(choice.end - horizon, choice.end + 1)
        clips.append(Clip(np.array(episode.frames[part]), np.array(episode.privileged[part])))
    return clips


def imagined_clips(
    model: LatentWorldModel,
    data: EpisodeDataset,
    chosen: Sequence[ClipChoice],
    horizon: int,
    *,
    rows: int,
    seed: int,
) -> list[Clip]:
    """The same clips from their first frame on as a world model imagines them."""
    clips: list[Clip] = []
    for first in tqdm(range(0, len(chosen), rows), desc="imagining", mininterval=5):
        group = chosen[first : first + rows]
        episodes = [data[choice.episode] for choice in group]
        starts = [choice.end - horizon for choice in group]
        pairs = list(zip(episodes, starts, strict=True))
        begun = np.stack([episode.frames[start] for episode, start in pairs])
        seeds = [seed * 1_000_003 + first + k for k in range(len(group))]
        rollout = model.begin(torch.from_numpy(begun), seeds=seeds)
        frames = [begun]
        for step in range(horizon):
            actions = np.stack([episode.actions[start + step] for episode, start in pairs])
            rollout.step(torch.from_numpy(actions))
            frames.append(rollout.frames().cpu().numpy())
        clips += [Clip(clip) for clip in np.stack(frames, axis=1)]
    return clips
