"""World models without pixels: a network that steps in latents, for measuring and checking it.

Parity cases, timings and checks of a device need a card, but no latent space, reward or start
states. Most of them need no trained weights either.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.spec import (
    ActionSpec,
    ContextSpec,
    DynamicsSpec,
    FrameSpec,
    LatentSpec,
    WorldModelSpec,
)
from wm_gym.world_model import LatentWorldModel


def plain_actions(width: int) -> ActionSpec:
    """Actions in [-1, 1] that reach the network as they are."""
    return ActionSpec(
        names=tuple(f"a{i}" for i in range(width)),
        units=("",) * width,
        low=(-1.0,) * width,
        high=(1.0,) * width,
        gain=(1.0,) * width,
        bias=(0.0,) * width,
        width=width,
        control_hz=5.0,
    )


def bare_card(
    name: str,
    network: DiTConfig,
    grid: tuple[int, int],
    context: ContextSpec,
    *,
    action: ActionSpec | None = None,
    dynamics: DynamicsSpec | None = None,
) -> WorldModelSpec:
    """A card for a network over latents that nobody decodes.

    Args:
        name: on the card.
        network: shape of the network.
        grid: (h, w) of the latents, and of the frames that are never made.
        context: of its rollouts.
        action: its action language; `plain_actions` by default.
        dynamics: how it is sampled; its `network` is filled in. Flow matching in 10 steps by
            default.
    """
    channels = network.channels
    return WorldModelSpec(
        name=name,
        description="a network over latents, without pixels",
        embedded=False,
        licence="none",
        training_data="none",
        recipe={},
        twin=None,
        frame=FrameSpec(*grid),
        action=action or plain_actions(network.action_width),
        latent=LatentSpec("none", grid, channels, (0.0,) * channels, (1.0,) * channels),
        context=context,
        dynamics=replace(dynamics or DynamicsSpec({}), network=asdict(network)),
        weights_sha256={},
    )


def bare_model(card: WorldModelSpec, network: DiT) -> LatentWorldModel:
    """A world model that can step, but neither encode nor decode."""
    return LatentWorldModel(card, None, network)  # pyright: ignore[reportArgumentType]


def random_network(config: DiTConfig) -> DiT:
    """A network whose every weight matters, gates and last layers included; always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DiT(config).eval()
        for name, parameter in network.named_parameters():
            if "adaLN" in name or "final_layer" in name:
                torch.nn.init.normal_(parameter, std=0.02)
    return network
