"""Any policy, made worse by Gaussian noise on its actions: a cheap way to graded policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wm_gym.errors import UserError
from wm_gym.policies.base import Observation, Policy, build, describe, policy_identity
from wm_gym.policies.chunks import ChunkError, Chunks, join_chunks, read_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from wm_gym.spec import ActionSpec, FrameSpec


class NoisyPolicy(Policy):
    """Adds noise to a policy's actions and clips them into its box.

    The noise is a function of the row's seed and step: the same in the dream and in its twin.

    Args:
        policy: the policy underneath.
        sigma: standard deviation as a fraction of half the range of each component.
    """

    kind: ClassVar[str] = "noisy"

    def __init__(self, policy: Policy, sigma: float) -> None:
        super().__init__(policy.action_spec, policy.frame_spec)
        if not sigma >= 0:
            raise UserError(f"sigma={sigma}: expected a fraction of half the range, 0 or more")
        self.policy, self.sigma = policy, float(sigma)
        self.frame_history = policy.frame_history
        self._seeds: dict[int, int] = {}

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes; see `Policy.reset`."""
        self._seeds.update(zip(map(int, rows), map(int, seeds), strict=True))
        self.policy.reset(rows, seeds, instructions)

    def act(self, observation: Observation) -> Chunks:
        """The policy's chunks (B, n, A) with noise; a row without a sound one stays without."""
        low, high = np.asarray(self.action_spec.low), np.asarray(self.action_spec.high)
        chunks = read_chunks(self.policy.act(observation), len(observation), len(low))
        places = zip(observation.rows, observation.steps, strict=True)
        for k, (row, step) in enumerate(places):
            chunk, seed = chunks[k], self._seeds.get(int(row), 0)
            if isinstance(chunk, ChunkError):
                continue
            drawn = [np.random.default_rng((seed, int(step) + n, 7)) for n in range(len(chunk))]
            noise = np.stack([generator.standard_normal(len(low)) for generator in drawn])
            noisy = chunk + self.sigma * (high - low) / 2 * noise
            chunks[k] = np.clip(noisy, low, high).astype(np.float32)
        return join_chunks(chunks)

    def config(self) -> dict[str, Any]:
        """Noise level and the description of the policy underneath."""
        return {"sigma": self.sigma, "policy": describe(self.policy)}

    def identity(self) -> dict[str, Any]:
        """See `Policy.identity`; the policy underneath need not be one that can be saved."""
        return policy_identity(self, {"sigma": self.sigma, "policy": self.policy.identity()})

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the policy underneath."""
        return self.policy.weights()

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> NoisyPolicy:
        """Builds the policy underneath, then this one."""
        return cls(build(config["policy"], weights), config["sigma"])
