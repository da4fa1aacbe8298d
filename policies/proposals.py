"""What policies that plan share: where plans start from, and the seed of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from wm_gym.policies.base import Observation, Policy, build, describe


class Proposals:
    """Policies whose chunks are the action sequences that planning starts from.

    Args:
        bases: the policies; longer chunks are cut, shorter ones go on with their last action.
    """

    def __init__(self, bases: Sequence[Policy] = ()) -> None:
        self.bases = tuple(bases)
        self.frame_history = max((base.frame_history for base in self.bases), default=0)

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes in all of them; see `Policy.reset`."""
        for base in self.bases:
            base.reset(rows, seeds, instructions)

    def draw(self, observation: Observation, horizon: int) -> torch.Tensor | None:
        """A sequence (B, K, horizon, A) of each of the K policies; None without any."""
        if not self.bases:
            return None
        chunks = [np.asarray(base.act(observation), np.float32) for base in self.bases]
        return torch.from_numpy(np.stack([fitted(chunk, horizon) for chunk in chunks], 1))

    def config(self) -> list[dict[str, Any]]:
        """What `from_saved` needs beside the weights."""
        return [describe(base) for base in self.bases]

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of all of them."""
        return {
            f"base_{number}.{name}": tensor
            for number, base in enumerate(self.bases)
            for name, tensor in base.weights().items()
        }

    @classmethod
    def from_saved(
        cls, described: Sequence[dict[str, Any]], weights: Mapping[str, torch.Tensor]
    ) -> Proposals:
        """The inverse of `config` and `weights`."""
        bases = []
        for number, one in enumerate(described):
            own = f"base_{number}."
            kept = {k.removeprefix(own): v for k, v in weights.items() if k.startswith(own)}
            bases.append(build(one, kept))
        return cls(bases)


def fitted(chunk: np.ndarray, horizon: int) -> np.ndarray:
    """Actions (B, n, A) cut to a horizon, or continued with their last one."""
    missing = max(0, horizon - chunk.shape[1])
    return np.pad(chunk[:, :horizon], ((0, 0), (0, missing), (0, 0)), mode="edge")


def plan_seed(seed: int, step: int) -> int:
    """Seed of the plan that a row makes at a step of its episode."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
