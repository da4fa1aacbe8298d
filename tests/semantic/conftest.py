"""A tiny semantic network with random weights."""

from __future__ import annotations

import pytest
import torch

from wm_gym.semantic.model import SemanticNetwork, SemanticNetworkConfig

TINY = SemanticNetworkConfig(
    vocabulary=120,
    action_width=2,
    image_size=24,
    patch=8,
    vision_width=16,
    vision_depth=2,
    vision_heads=2,
    vision_mlp=32,
    width=24,
    depth=2,
    heads=2,
    head_width=12,
    mlp=48,
)


def randomise(network: SemanticNetwork, seed: int = 0, std: float = 0.15) -> SemanticNetwork:
    """Weights under which image, actions and every word matter to the answers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def causal() -> SemanticNetwork:
    """Block-causal: image and actions do not see questions."""
    return randomise(SemanticNetwork(TINY, "block_causal"))


@pytest.fixture(scope="module")
def full() -> SemanticNetwork:
    """Full: as the published weights."""
    return randomise(SemanticNetwork(TINY, "full"))
