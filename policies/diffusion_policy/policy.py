"""Diffusion Policy (arXiv:2303.04137): denoises a chunk of actions, carries out its first part."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from wm_gym.dynamics.noise import row_noise
from wm_gym.errors import UserError
from wm_gym.instructions import InstructionSet
from wm_gym.plain_torch import plain_torch
from wm_gym.policies.base import Observation, Policy, PolicyError
from wm_gym.policies.diffusion_policy.network import (
    DiffusionNetwork,
    DiffusionNetworkConfig,
    Vocabulary,
)
from wm_gym.policies.diffusion_policy.noise import NoiseConfig, denoise
from wm_gym.policies.goal_encoder import encode_goals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wm_gym.spec import ActionSpec, FrameSpec

ACTION_STREAM = 11
"""Stream of the noise that actions are made of; see `wm_gym.dynamics.noise`."""


class DiffusionPolicy(Policy):
    """The trained network as a policy; its noise is a function of the row's seed and step.

    Args:
        action_spec: its action language.
        frame_spec: frames it was trained on.
        network: the network.
        low: physical action that is -1 to the network, (A,).
        high: physical action that is 1 to the network, (A,).
        noise: the noise that it was trained with.
        execute: how many actions of a chunk are carried out, from that of the newest frame on.
        steps: denoising steps, at most those of training.
        state: normalised numbers about the robot that stand for every frame's, if the network was
            trained with such: a policy sees frames and words only.

    Raises:
        ValueError: if a number does not fit the network.
    """

    kind: ClassVar[str] = "diffusion-policy"

    def __init__(
        self,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        network: DiffusionNetwork,
        *,
        low: Sequence[float],
        high: Sequence[float],
        noise: NoiseConfig | None = None,
        execute: int = 8,
        steps: int = 10,
        state: Sequence[float] = (),
    ) -> None:
        super().__init__(action_spec, frame_spec)
        config, self.noise = network.config, noise or NoiseConfig()
        longest = config.horizon - config.observations + 1
        if not 1 <= execute <= longest:
            raise UserError(
                f"execute={execute}: expected 1 to {longest}, the actions from the newest frame on"
            )
        if not 1 <= steps <= self.noise.steps:
            raise UserError(f"steps={steps}: expected 1 to {self.noise.steps}, those of training")
        if len(state) != network.state_size:
            raise UserError(
                f"state={tuple(state)} has {len(state)} numbers; the network was trained with "
                f"{network.state_size}"
            )
        if not len(low) == len(high) == action_spec.size == network.action_size:
            raise UserError(
                f"low and high have {len(low)} and {len(high)} components, the action language "
                f"{action_spec.size} and the network {network.action_size}: expected as many"
            )
        self.network = network.eval()
        self.low, self.high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self.execute, self.steps, self.state = execute, steps, tuple(map(float, state))
        self.frame_history = config.observations - 1
        self.instructions = InstructionSet(network.vocabulary.templates, network.vocabulary.objects)
        self._seeds: dict[int, int] = {}

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes; see `Policy.reset`."""
        self._seeds.update(zip(map(int, rows), map(int, seeds), strict=True))

    @plain_torch()
    def act(self, observation: Observation) -> np.ndarray:
        """The next (B, execute, A) actions.

        Raises:
            InstructionError: if an instruction is not understood.
            PolicyError: if the observation holds too few frames.
        """
        return self.samples(observation, 1)[:, 0]

    @torch.inference_mode()
    def samples(self, observation: Observation, count: int) -> np.ndarray:
        """Several chunks for each row, (B, count, execute, A); the first is what `act` returns."""
        config, device = self.network.config, next(self.network.parameters()).device
        tasks, objects = self.goals(observation.instructions)
        frames = torch.from_numpy(np.array(observation.recent(config.observations))).to(device)
        tasks, objects = tasks.to(device), objects.to(device)
        seen, _ = self.network.look(frames, tasks, objects)
        state = None
        if self.state:
            state = torch.tensor(self.state, device=device).expand(*seen.shape[:2], -1)
        condition = self.network.condition(seen, tasks, objects, state)
        condition = condition.repeat_interleave(count, dim=0)
        noise = row_noise(
            [self._seeds.get(int(row), 0) for row in observation.rows],
            observation.steps.tolist(),
            (count, config.horizon, self.action_spec.size),
            ACTION_STREAM,
        )
        chunks = denoise(
            self.noise,
            lambda noisy, times: self.network.unet(noisy, times, condition),
            noise.flatten(0, 1).to(device),
            self.steps,
        )
        first = config.observations - 1
        chosen = chunks[:, first : first + self.execute].cpu().numpy().astype(np.float64)
        actions = (self.low + self.high) / 2 + chosen * (self.high - self.low) / 2
        actions = np.clip(actions, self.action_spec.low, self.action_spec.high)
        return actions.reshape(len(observation), count, *actions.shape[1:]).astype(np.float32)

    def goals(self, instructions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tasks (B,) and word counts (B, 2, words) of instructions, as the network takes them.

        Raises:
            InstructionError: if an instruction is not understood.
        """
        if not self.network.vocabulary.templates:
            count = len(instructions)
            return torch.zeros(count, dtype=torch.long), torch.zeros(count, 2, 0)
        goals = [self.instructions.parse(text) for text in instructions]
        return encode_goals(self.network.vocabulary.encoder_config(), goals)

    def normalise(self, actions: np.ndarray) -> np.ndarray:
        """Physical actions (..., A) in the network's units, within ±1."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return np.clip((actions - middle) / half, -1, 1)

    def config(self) -> dict[str, Any]:
        """Sizes, vocabulary, noise, stored normalisation, and how chunks are used."""
        return {
            "network": asdict(self.network.config),
            "vocabulary": asdict(self.network.vocabulary),
            "state": list(self.state),
            "noise": asdict(self.noise),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "execute": self.execute,
            "steps": self.steps,
        }

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
    ) -> DiffusionPolicy:
        """Builds network and policy."""
        vocabulary = config["vocabulary"]
        network = DiffusionNetwork(
            DiffusionNetworkConfig(**_known(DiffusionNetworkConfig, config["network"])),
            Vocabulary(vocabulary["templates"], tuple(vocabulary["objects"])),
            action_spec.size,
            len(config["state"]),
        )
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise PolicyError(
                f"the weights do not fit a diffusion policy of {config['network']}: {error}; get "
                "the policy again"
            ) from error
        return cls(
            action_spec,
            frame_spec,
            network,
            low=config["low"],
            high=config["high"],
            noise=NoiseConfig(**_known(NoiseConfig, config["noise"])),
            execute=config["execute"],
            steps=config["steps"],
            state=config["state"],
        )


def _known(kind: type, stored: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config class, lists as tuples."""
    names = {field.name for field in fields(kind)}
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in stored.items()
        if key in names
    }
