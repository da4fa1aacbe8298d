"""Examples of whole chunks: the last frames of a state and the clean labels around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from wm_gym.errors import UserError
from wm_gym.instructions import Goal
from wm_gym.policies.cloning_examples import CloningExamples
from wm_gym.spec import ActionSpec

STILL = 0.01
"""A component whose labels vary by less, in units of half its range, keeps its whole range."""


@dataclass(frozen=True)
class ChunkBatch:
    """B examples.

    Attributes:
        frames: the newest n frames of each, uint8 (B, n, H, W, 3).
        goals: B goals.
        actions: normalised labels (B, T, A), the first one that of the oldest frame.
        positions: where effector and objects are in every frame, (B, n, 1 + objects, 2); NaN for
            what is not there.
        where: dataset, episode and newest state of each.
    """

    frames: torch.Tensor
    goals: list[Goal]
    actions: torch.Tensor
    positions: torch.Tensor
    where: list[tuple[int, int, int]]


class ChunkExamples:
    """What a diffusion policy learns from, N states.

    Before an episode's beginning stand its first frame and label again, after its end its last
    label, as in the code published with arXiv:2303.04137.

    Args:
        examples: episodes, goals and labels.
        action: the action language, for the normalisation.
        observations: n, frames of an example.
        horizon: T, labels of an example.
        end_padding: how many of them may lie after the episode's end.

    Attributes:
        low: physical action that is normalised to -1, (A,): the least label.
        high: physical action that is normalised to 1, (A,): the greatest label.

    Raises:
        ValueError: if no state has enough labels.
    """

    def __init__(
        self,
        examples: CloningExamples,
        action: ActionSpec,
        *,
        observations: int,
        horizon: int,
        end_padding: int,
    ) -> None:
        self.examples = examples
        self.observations, self.horizon = observations, horizon
        after = horizon - observations + 1  # labels from the newest frame on
        self.where = [
            (number, episode, state)
            for number, episode, state in examples.where
            if state + after <= len(examples.labels[number, episode]) + end_padding
        ]
        if not self.where:
            raise UserError(
                f"no state has {after - end_padding} labels before its episode's end: collect "
                f"longer episodes, or allow more than end_padding={end_padding}"
            )
        labels = np.concatenate(list(examples.labels.values()))
        low, high = labels.min(axis=0), labels.max(axis=0)
        still = high - low < STILL
        self._low, self._high = np.where(still, -1.0, low), np.where(still, 1.0, high)
        middle = (np.asarray(action.high) + np.asarray(action.low)) / 2
        half = (np.asarray(action.high) - np.asarray(action.low)) / 2
        self.low, self.high = middle + half * self._low, middle + half * self._high

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.where)

    def states(self, state: int) -> np.ndarray:
        """The states whose frames belong to an example, oldest first, (n,)."""
        return np.arange(state - self.observations + 1, state + 1).clip(min=0)

    def batch(self, indices: np.ndarray, *, frames: bool = True) -> ChunkBatch:
        """Some examples.

        Args:
            indices: which.
            frames: whether to read frames; without, they are (B, n, 0).
        """
        seen, goals, actions, positions, where = [], [], [], [], []
        for index in indices:
            number, episode, state = self.where[int(index)]
            at, states = (number, episode), self.states(state)
            if frames:
                seen.append(self.examples.datasets[number].frames(episode, states))
            labels = self.examples.labels[at]
            first = state - self.observations + 1
            chosen = np.arange(first, first + self.horizon).clip(0, len(labels) - 1)
            middle, half = (self._high + self._low) / 2, (self._high - self._low) / 2
            actions.append((labels[chosen] - middle) / half)
            goals.append(self.examples.goals[at])
            positions.append(self.examples.positions[at][states])
            where.append((number, episode, state))
        stacked = np.stack(seen) if frames else np.empty((len(where), self.observations, 0))
        return ChunkBatch(
            torch.from_numpy(stacked),
            goals,
            torch.from_numpy(np.stack(actions).astype(np.float32)),
            torch.from_numpy(np.stack(positions)),
            where,
        )
