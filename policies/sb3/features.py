"""What Stable-Baselines3 agents read out of latent grids."""

from __future__ import annotations

import gymnasium
import torch
import torch.nn.functional as F
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from wm_gym.errors import UserError
from wm_gym.policies.goal_encoder import cell_centres


class LatentGridExtractor(BaseFeaturesExtractor):
    """Features of `obs="latents"`: where things are in the grid, and what there is on the whole.

    Two convolutions read the grid; of every channel of the second a softmax over cells says where
    it is strongest (two coordinates) and the mean how strong it is.

    Example:
        >>> from stable_baselines3 import PPO
        >>> kwargs = {"features_extractor_class": LatentGridExtractor}
        >>> agent = PPO("MlpPolicy", envs, policy_kwargs=kwargs)  # doctest: +SKIP

    Args:
        observation_space: Box (h, w, D), float.
        features_dim: numbers it gives.
        channels: width of the convolutions.

    Raises:
        ValueError: if the observations are no latents.
    """

    def __init__(
        self, observation_space: gymnasium.Space, features_dim: int = 128, channels: int = 32
    ) -> None:
        shape = observation_space.shape
        if shape is None or len(shape) != 3 or observation_space.dtype != "float32":
            raise UserError(
                f"observations are {observation_space}; expected latents, float32 (h, w, D): make "
                "the environment with obs='latents'"
            )
        super().__init__(observation_space, features_dim)
        height, width, depth = shape
        self.first = nn.Conv2d(depth, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.sharpness = nn.Parameter(torch.zeros(()))
        self.out = nn.Linear(3 * channels, features_dim)
        self.centres: Tensor
        self.register_buffer("centres", cell_centres(height, width), persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """Features (B, features_dim) of latents (B, h, w, D)."""
        grid = F.gelu(self.first(observations.permute(0, 3, 1, 2)))
        cells = self.second(grid).flatten(2)  # (B, C, P)
        places = (self.sharpness.exp() * cells).softmax(-1) @ self.centres  # (B, C, 2)
        strengths = F.gelu(cells).mean(-1)
        return F.gelu(self.out(torch.cat([places.flatten(1), strengths], 1)))
