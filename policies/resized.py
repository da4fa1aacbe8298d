"""A policy that sees frames of another size than the environment gives: an explicit, lossy step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wm_gym.errors import UserError
from wm_gym.policies.base import Observation, Policy, build, describe, policy_identity

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from wm_gym.policies.chunks import Chunks
    from wm_gym.spec import ActionSpec, FrameSpec


class ResizedPolicy(Policy):
    """Resizes the environment's frames to those of a policy, by Pillow's bicubic filter.

    Args:
        policy: the policy underneath; it must state its frames.
        frame_spec: frames that the environment gives.
    """

    kind: ClassVar[str] = "resized"

    def __init__(self, policy: Policy, frame_spec: FrameSpec) -> None:
        if policy.frame_spec is None:
            raise UserError(
                f"{type(policy).__name__} takes frames of any size; use it without ResizedPolicy"
            )
        super().__init__(policy.action_spec, frame_spec)
        self.policy = policy
        self.frame_history = policy.frame_history

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes; see `Policy.reset`."""
        self.policy.reset(rows, seeds, instructions)

    def act(self, observation: Observation) -> Chunks:
        """The policy's chunk on resized frames."""
        from PIL import Image

        wanted = self.policy.frame_spec
        assert wanted is not None
        size = (wanted.width, wanted.height)
        seen = observation.recent(1 + self.frame_history)
        frames = [
            np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
            for frame in seen.reshape(-1, *seen.shape[2:])
        ]
        resized = np.stack(frames).reshape(*seen.shape[:2], wanted.height, wanted.width, 3)
        return self.policy.act(replace(observation, frames=resized[:, -1], history=resized[:, :-1]))

    def config(self) -> dict[str, Any]:
        """The description of the policy underneath."""
        return {"policy": describe(self.policy)}

    def identity(self) -> dict[str, Any]:
        """See `Policy.identity`; the policy underneath need not be one that can be saved."""
        return policy_identity(self, {"policy": self.policy.identity()})

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
    ) -> ResizedPolicy:
        """Builds the policy underneath, then this one."""
        assert frame_spec is not None
        return cls(build(config["policy"], weights), frame_spec)
