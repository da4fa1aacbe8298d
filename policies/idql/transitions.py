"""Offline experience as the critics take it: chunks, what they earned, and where they led."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from wm_gym.data.episodes import EpisodeDataset
from wm_gym.errors import UserError
from wm_gym.instructions import Goal
from wm_gym.policies.diffusion_policy.network import DiffusionNetwork
from wm_gym.policies.goal_encoder import encode_goals
from wm_gym.policies.idql.features import critic_features


@dataclass(frozen=True)
class Steps:
    """The chunks of one episode, N of them.

    Attributes:
        begin: state in which each begins, (N,).
        end: state in which each ends, (N,).
        reward: discounted reward on the way, (N,).
        discount: of the value of the end; 0 where the goal was reached.
    """

    begin: np.ndarray
    end: np.ndarray
    reward: np.ndarray
    discount: np.ndarray


def chunk_steps(success: np.ndarray, chunk: int, gamma: float) -> Steps:
    """The chunks of an episode with the binary reward: 1 for the step that reaches the goal.

    The episode is over with its first success; one without is cut off, not over, so that a chunk
    must fit into it.

    Args:
        success: whether the goal holds in each state, (T+1,).
        chunk: n, actions of a chunk.
        gamma: discount of a step.
    """
    reached = int(success.argmax()) if success.any() else None
    last = len(success) - 1
    begin = np.arange(max(0, last + 1 - chunk)) if reached is None else np.arange(reached)
    end = np.minimum(begin + chunk, last if reached is None else reached)
    arrived = np.zeros(len(begin), bool) if reached is None else end == reached
    reward = np.where(arrived, gamma ** (end - begin - 1.0), 0.0)
    return Steps(begin, end, reward, np.where(arrived, 0.0, gamma**chunk))


class Transitions:
    """All chunks of several datasets, with every frame turned into features once.

    Args:
        datasets: episodes; those of tasks that the policy does not know are left out.
        network: of the diffusion policy, whose encoder looks at the frames.
        normalise: physical actions (T, A) to normalised ones.
        chunk: n, actions of a chunk.
        gamma: discount of a step.

    Attributes:
        features: of every state, (S, F), standardised.
        mean: what was subtracted from the features, (F,).
        std: what they were divided by, (F,).
        rewarded: fraction of the chunks that reach their goal.

    Raises:
        ValueError: if no episode has a chunk.
    """

    def __init__(
        self,
        datasets: Sequence[EpisodeDataset],
        network: DiffusionNetwork,
        normalise: Callable[[np.ndarray], np.ndarray],
        *,
        chunk: int,
        gamma: float,
    ) -> None:
        tasks = network.vocabulary.templates
        chosen = [
            (dataset, index, goal)
            for dataset in datasets
            for index, goal in enumerate(dataset.goals)
            if goal.task in tasks
        ]
        seen, actions, found, states = [], [], [], 0
        for dataset, index, goal in tqdm(chosen, "looking", unit="episode", mininterval=5):
            steps = chunk_steps(dataset.labels(index)[1], chunk, gamma)
            if not len(steps.begin):
                continue
            done = normalise(dataset.actions(index))
            of_chunk = (steps.begin[:, None] + np.arange(chunk)).clip(max=len(done) - 1)
            actions.append(done[of_chunk].reshape(len(of_chunk), -1))
            frames = dataset.frames(index, slice(0, int(steps.end.max()) + 1))
            seen.append(_look(frames, goal, network))
            found.append(replace(steps, begin=steps.begin + states, end=steps.end + states))
            states += len(seen[-1])
        if not found:
            raise UserError(
                f"{[str(dataset.folder) for dataset in datasets]} hold no episode of the tasks "
                f"{list(tasks)} with {chunk} actions or a success"
            )
        self.features = torch.cat(seen)
        self.mean = self.features.mean(dim=0)
        std = self.features.std(dim=0)
        self.std = torch.where(std < 1e-4, torch.ones_like(std), std)  # what never changes
        self.features = (self.features - self.mean) / self.std
        self.chunks = torch.from_numpy(np.concatenate(actions).astype(np.float32))
        self.begin = torch.from_numpy(np.concatenate([steps.begin for steps in found]))
        self.end = torch.from_numpy(np.concatenate([steps.end for steps in found]))
        self.reward = torch.from_numpy(np.concatenate([steps.reward for steps in found])).float()
        self.discount = torch.from_numpy(
            np.concatenate([steps.discount for steps in found])
        ).float()
        self.rewarded = float((self.discount == 0).float().mean())

    def __len__(self) -> int:
        """Number of chunks."""
        return len(self.begin)


@torch.inference_mode()
def _look(frames: np.ndarray, goal: Goal, network: DiffusionNetwork) -> torch.Tensor:
    goals = [goal] * len(frames)
    tasks, objects = encode_goals(network.vocabulary.encoder_config(), goals)
    # frames are a read-only view of the file
    return critic_features(network, torch.from_numpy(np.array(frames)), tasks, objects).clone()
