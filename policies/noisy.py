"""Any policy, made worse by Gaussian noise on its actions: a cheap way to graded policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wm_gym.policies.base import Observation, Policy, build, describe

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
            raise ValueError(f"sigma={sigma}: expected a fraction of half the range, 0 or more")
        self.policy, self.sigma = policy, float(sigma)
        self.frame_history = policy.frame_history
        self._seeds: dict[int, int] = {}

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes; see `Policy.reset`."""
        self._seeds.update(zip(map(int, rows), map(int, seeds), strict=True))
        self.policy.reset(rows, seeds, instructions)

    def act(self, observation: Observation) -> np.ndarray:
        """The policy's chunk (B, n, A) with noise."""
        chunk = np.asarray(self.policy.act(observation), np.float32)
        low, high = np.asarray(self.action_spec.low), np.asarray(self.action_spec.high)
        if chunk.ndim != 3 or chunk.shape[0] != len(observation) or chunk.shape[2] != len(low):
            return chunk  # the runner names the fault, and whose it is
        noise = np.empty(chunk.shape)
        for k, (row, step) in enumerate(zip(observation.rows, observation.steps, strict=True)):
            seed = self._seeds.get(int(row), 0)
            for n in range(chunk.shape[1]):
                generator = np.random.default_rng((seed, int(step) + n, 7))
                noise[k, n] = generator.standard_normal(len(low))
        return np.clip(chunk + self.sigma * (high - low) / 2 * noise, low, high).astype(np.float32)

    def config(self) -> dict[str, Any]:
        """Noise level and the description of the policy underneath."""
        return {"sigma": self.sigma, "policy": describe(self.policy)}

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
