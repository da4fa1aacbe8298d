"""A small image policy that imitates an expert: frames and words in, a chunk of actions out.

A `GoalEncoder` looks for what matters, independently of any world model's encoder; an action head
sees what it found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from wm_gym.errors import UserError
from wm_gym.instructions import InstructionSet
from wm_gym.plain_torch import plain_torch
from wm_gym.policies.base import Observation, Policy, PolicyError
from wm_gym.policies.goal_encoder import GoalEncoder, GoalEncoderConfig, encode_goals

if TYPE_CHECKING:
    from wm_gym.spec import ActionSpec, FrameSpec


@dataclass(frozen=True)
class BehaviourCloningConfig(GoalEncoderConfig):
    """Size and vocabulary of a `BehaviourCloningNetwork`.

    Attributes:
        action_size: components of an action.
        chunk: actions predicted at once.
        hidden: width of the action head.
    """

    action_size: int = 2
    chunk: int = 4
    hidden: int = 192


class BehaviourCloningNetwork(GoalEncoder):
    """Frames and goals to a chunk of actions in units of half the action range.

    Args:
        config: its size and vocabulary.
    """

    config: BehaviourCloningConfig

    def __init__(self, config: BehaviourCloningConfig) -> None:
        super().__init__(config)
        self.head = nn.Sequential(
            nn.Linear(self.feature_size, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.chunk * config.action_size),
        )

    def forward(
        self, frames: torch.Tensor, tasks: torch.Tensor, objects: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicts actions.

        Args:
            frames: see `features`.
            tasks: see `features`.
            objects: see `features`.

        Returns:
            Actions (B, n, A), within about ±1, and the logits that `features` returns.
        """
        features, logits = self.features(frames, tasks, objects)
        return self.actions(features), logits

    def actions(self, features: torch.Tensor) -> torch.Tensor:
        """Actions (B, n, A) from features (B, F)."""
        return self.head(features).unflatten(1, (self.config.chunk, -1))


class BehaviourCloningPolicy(Policy):
    """The trained network as a policy; deterministic and the same for every seed.

    Args:
        action_spec: its action language; the network's outputs are in units of half its range.
        frame_spec: frames it was trained on.
        network: the network.
        execute: how many actions of a predicted chunk it returns; all by default.
    """

    kind: ClassVar[str] = "behaviour-cloning"

    def __init__(
        self,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        network: BehaviourCloningNetwork,
        *,
        execute: int | None = None,
    ) -> None:
        super().__init__(action_spec, frame_spec)
        config = network.config
        self.execute = execute or config.chunk
        if not 1 <= self.execute <= config.chunk:
            raise UserError(f"execute={execute}: expected 1 to {config.chunk}, the chunk predicted")
        self.network = network.eval()
        self.instructions = InstructionSet(config.templates, config.objects)

    @plain_torch()
    @torch.inference_mode()
    def act(self, observation: Observation) -> np.ndarray:
        """The next (B, execute, A) actions.

        Raises:
            InstructionError: if an instruction is not understood.
        """
        goals = [self.instructions.parse(text) for text in observation.instructions]
        tasks, objects = encode_goals(self.network.config, goals)
        frames = torch.from_numpy(np.ascontiguousarray(observation.frames))
        device = self.network.scale.device
        actions, _ = self.network(frames.to(device), tasks.to(device), objects.to(device))
        low, high = np.asarray(self.action_spec.low), np.asarray(self.action_spec.high)
        chunk = actions[:, : self.execute].float().cpu().numpy().clip(-1, 1)
        return ((low + high) / 2 + chunk * (high - low) / 2).astype(np.float32)

    def config(self) -> dict[str, Any]:
        """The network's config and how many actions are carried out."""
        return {"network": asdict(self.network.config), "execute": self.execute}

    def weights(self) -> dict[str, torch.Tensor]:
        """The network's parameters."""
        return {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> BehaviourCloningPolicy:
        """Builds network and policy."""
        known = {field.name for field in fields(BehaviourCloningConfig)}
        given = {key: value for key, value in config["network"].items() if key in known}
        given["objects"] = tuple(given["objects"])
        network = BehaviourCloningNetwork(BehaviourCloningConfig(**given))
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise PolicyError(
                f"the weights do not fit the network of {given}: {error}; get the policy again"
            ) from error
        return cls(action_spec, frame_spec, network, execute=config["execute"])
