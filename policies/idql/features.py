"""What critics see: the newest frame as a diffusion policy's encoder sees it, and the goal."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from wm_gym.policies.diffusion_policy.network import DiffusionNetwork


def critic_features(
    network: DiffusionNetwork, frames: torch.Tensor, tasks: torch.Tensor, objects: torch.Tensor
) -> torch.Tensor:
    """Features (B, F): of the encoder, then the task one-hot and the objects' word counts.

    Args:
        network: of the diffusion policy.
        frames: newest frames, (B, H, W, 3).
        tasks: see `DiffusionNetwork.look`.
        objects: see `DiffusionNetwork.look`.
    """
    seen = network.look(frames[:, None], tasks, objects)[0][:, 0].float()
    count = max(1, len(network.vocabulary.templates))
    return torch.cat([seen, F.one_hot(tasks, count).to(seen), objects.flatten(1)], dim=1)
