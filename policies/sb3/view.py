"""From the frames that every policy sees to the observation that an agent was trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecTransposeImage

from wm_gym.checkpoints import Checkpoint, resolve_checkpoint
from wm_gym.envs.observations import dict_observation, observation_space
from wm_gym.envs.registration import EMBEDDED_MODELS
from wm_gym.instructions import InstructionSet
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.latents.registry import load_latent_space
from wm_gym.policies.base import Observation, PolicyError
from wm_gym.policies.sb3.positions import position_space, read_positions
from wm_gym.spec import WorldModelSpec
from wm_gym.world_model import encode_frames

VIEWS = ("pixels", "latents", "dict", "positions")


@dataclass(frozen=True)
class ViewConfig:
    """What an agent observes, and through which world model's encoder.

    Attributes:
        obs: one of `VIEWS`.
        env_id: id of the imagined environment, which says what "embedded" means.
        checkpoint: "embedded", or the checkpoint's folder or `hf://` name.
        fingerprint: of what the observation depends on, see `fingerprint`.
        horizon: steps of an episode in training, for the time left.
    """

    obs: str
    env_id: str
    checkpoint: str
    fingerprint: str
    horizon: int


def fingerprint(spec: WorldModelSpec, obs: str) -> str:
    """Hash of the parts of a card that an observation depends on: not the dynamics.

    Raises:
        PolicyError: if there is no such observation.
    """
    if obs not in VIEWS:
        raise PolicyError(f"obs={obs!r} is unknown; expected one of {list(VIEWS)}")
    parts: dict[str, Any] = {"frame": asdict(spec.frame)}
    if obs == "dict":
        parts |= {"tasks": spec.tasks, "objects": spec.objects}
    if obs in ("latents", "positions"):
        moving = {spec.dynamics.weights, spec.distilled.weights if spec.distilled else ""}
        if obs == "latents" and spec.reward is not None:
            moving.add(spec.reward.weights)
        weights = {k: v for k, v in spec.weights_sha256.items() if k not in moving}
        parts |= {"latent": asdict(spec.latent), "weights": weights}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class View:
    """Makes an agent's observations from frames.

    Args:
        config: what it observes.

    Raises:
        CheckpointError: if the world model's checkpoint is not there.
        PolicyError: if it is not the one that the agent was trained with.
    """

    def __init__(self, config: ViewConfig) -> None:
        self.config = config
        if config.env_id not in EMBEDDED_MODELS:
            raise PolicyError(
                f"env_id={config.env_id!r} is unknown; expected one of {list(EMBEDDED_MODELS)}"
            )
        embedded = EMBEDDED_MODELS[config.env_id]
        folder = resolve_checkpoint(config.checkpoint, embedded, config.env_id)
        checkpoint = Checkpoint.open(Path(folder))
        self.spec = checkpoint.spec
        if fingerprint(self.spec, config.obs) != config.fingerprint:
            raise PolicyError(
                f"checkpoint {config.checkpoint!r} ({self.spec.name}) does not show what the "
                f"agent was trained on: the parts of its card that obs={config.obs!r} depends on "
                "differ; name the checkpoint of its training, or train it again"
            )
        self.instructions = InstructionSet(self.spec.tasks, self.spec.objects)
        if config.obs in ("latents", "positions"):
            self.latent_space = load_latent_space(self.spec.latent, checkpoint)
        if config.obs == "positions":
            self.reward_model = RewardModel.from_checkpoint(checkpoint)

    def space(self) -> spaces.Space:
        """What the agent's network reads; images channels first, as SB3 turns them."""
        if self.config.obs == "positions":
            return position_space(self.spec)
        space = observation_space(self.spec, self.config.obs)
        if isinstance(space, spaces.Dict):
            return spaces.Dict({name: _as_sb3(part) for name, part in space.spaces.items()})
        return _as_sb3(space)

    def __call__(self, observation: Observation) -> np.ndarray | dict[str, np.ndarray]:
        """The agent's observations, B of them."""
        config = self.config
        if config.obs == "pixels":
            return observation.frames
        if config.obs == "dict":
            rows = zip(observation.frames, observation.instructions, observation.steps, strict=True)
            seen = [
                dict_observation(
                    frame,
                    self.instructions.parse(text) if text else None,
                    max(0.0, 1 - int(steps) / config.horizon),
                    self.spec,
                )
                for frame, text, steps in rows
            ]
            return {name: np.stack([one[name] for one in seen]) for name in seen[0]}
        frames = torch.from_numpy(np.ascontiguousarray(observation.frames))
        latents = encode_frames(self.spec, self.latent_space, frames)
        if config.obs == "positions":
            return read_positions(self.reward_model, latents)
        return latents.float().cpu().numpy()


def _as_sb3(space: spaces.Space) -> spaces.Space:
    """Images with their channels first, anything else as it is."""
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        return VecTransposeImage.transpose_space(space)  # pyright: ignore[reportArgumentType]
    return space
