"""A tiny world model with random weights: enough for facts about rollouts."""

from __future__ import annotations

import pytest
import torch

from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.dynamics.flow import FlowSampler
from wm_gym.evaluation.parity.bare_models import bare_card
from wm_gym.spec import ActionSpec, ContextSpec

GRID, CHANNELS, ACTIONS, WIDTH = (4, 4), 3, 2, 3


class ToyWorldModel:
    """Latents are 4 x 4 pixels as they are; `decodes` counts calls of the decoder."""

    def __init__(
        self, kind: str, length: int, alignment: str = "target", steps: int = 2, views: int = 1
    ) -> None:
        torch.manual_seed(0)
        band = length if kind == "banded" else None
        config = DiTConfig(
            channels=CHANNELS, dim=32, depth=2, heads=2, action_width=WIDTH, band=band,
            num_views=views,
        )  # fmt: skip
        self.network = DiT(config).eval()
        for parameter in self.network.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        self.sampler = FlowSampler(steps, 1.5)
        self.decodes = 0
        action = ActionSpec(
            names=("x", "y"),
            units=("m", "m"),
            low=(-0.03, -0.03),
            high=(0.03, 0.03),
            gain=(30.0, 30.0),
            bias=(0.0, 0.0),
            width=WIDTH,
            control_hz=10.0,
            alignment=alignment,
        )
        self.spec = bare_card("toy", config, GRID, ContextSpec(kind, length), action=action)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, 4, 4, 3) uint8 -> (B, 4, 4, 3)."""
        return frames.float() / 64 - 2

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Inverse of `encode`, clipped."""
        self.decodes += 1
        return ((latents + 2) * 64).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture
def toy() -> type[ToyWorldModel]:
    """The class, so that tests choose context and alignment."""
    return ToyWorldModel
