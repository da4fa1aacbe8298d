"""Positions as observations: where the reward model sees the objects and the effector.

Eighteen numbers instead of a thousand, and no network of the agent's own that would have to learn
to see: an agent then needs far fewer imagined steps. What they are worth is what the reward model
of the checkpoint is worth, which learned them from the same episodes as the world model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from wm_gym.checkpoints import Checkpoint
from wm_gym.errors import UserError
from wm_gym.judges.success_classifier import POSITION_SCALE_M, RewardModel
from wm_gym.policies.sb3.vec_env import ImaginedVecEnv
from wm_gym.spec import WorldModelSpec


def position_space(spec: WorldModelSpec) -> spaces.Box:
    """Space of x and y of every object, and then of the effector, in units of 0.1 m."""
    return spaces.Box(-np.inf, np.inf, (2 * (len(spec.objects) + 1),), np.float32)


@torch.inference_mode()
def read_positions(model: RewardModel, latents: torch.Tensor) -> np.ndarray:
    """Positions (B, 2 K) in units of 0.1 m of normalised latents (B, h, w, D)."""
    positions = model.network.positions(latents.float()) / POSITION_SCALE_M
    return positions.flatten(1).float().cpu().numpy()


class ReadPositions(VecEnvWrapper):
    """Shows an agent positions instead of latents.

    Args:
        venv: an `ImaginedVecEnv` with `obs="latents"`, wrapped or not.

    Raises:
        TypeError: if it is no imagined environment.
        ValueError: if its observations are no latents.
        CheckpointError: if there is no reward model beside the card.
    """

    def __init__(self, venv: VecEnv) -> None:
        bridge = venv.unwrapped
        if not isinstance(bridge, ImaginedVecEnv):
            raise TypeError(f"{venv} is no ImaginedVecEnv; positions are read from its latents")
        engine = bridge.imagined.engine
        if engine.settings.obs != "latents":
            raise UserError(
                f"the environment has obs={engine.settings.obs!r}; expected 'latents', from which "
                "positions are read"
            )
        if engine.model.folder is None:
            raise UserError("the world model has no folder, so there is no reward model to read")
        checkpoint = Checkpoint(engine.model.folder, engine.spec)
        self.device = torch.device(engine.settings.device)
        self.model = RewardModel.from_checkpoint(checkpoint, engine.settings.device)
        super().__init__(venv, position_space(engine.spec))

    def _read(self, latents: Any) -> np.ndarray:
        return read_positions(self.model, torch.from_numpy(np.asarray(latents)).to(self.device))

    def reset(self) -> np.ndarray:
        """Begin an episode in every row."""
        return self._read(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; last observations of episodes become positions, too."""
        latents, rewards, dones, infos = self.venv.step_wait()
        if ended := [info for info in infos if "terminal_observation" in info]:
            last = self._read(np.stack([info["terminal_observation"] for info in ended]))
            for info, positions in zip(ended, last, strict=True):
                info["terminal_observation"] = positions
        return self._read(latents), rewards, dones, infos
