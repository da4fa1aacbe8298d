"""Recipe: `wm-gym train assemble`, trained parts into a checkpoint folder with its card.

The card's `metrics` are filled afterwards by `wm-gym evaluate …`; nothing is measured here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

from wm_gym.checkpoints import Checkpoint, save_checkpoint
from wm_gym.domains import DOMAINS
from wm_gym.latents.vae_mini import VAEMiniConfig
from wm_gym.spec import (
    ContextSpec,
    DynamicsSpec,
    LatentSpec,
    RewardSpec,
    WorldModelSpec,
)


@dataclass(frozen=True)
class AssembleConfig:
    """Make a checkpoint folder from run folders."""

    name: str
    """Name of the model, e.g. langtable-vae-mini."""
    out: Path
    """Checkpoint folder to write; metrics of a card that is already there are dropped."""
    autoencoder: Path
    """Run folder of `wm-gym train autoencoder`."""
    latents: Path
    """Folder of `wm-gym train latents` (normalisation)."""
    dynamics: Path
    """Run folder of `wm-gym train latent-dynamics`."""
    distilled: Path | None = None
    """Run folder of `wm-gym train distil`."""
    reward: Path | None = None
    """Run folder of `wm-gym train reward`."""
    domain: str = "langtable"
    """Simulated domain."""
    band: int = 10
    """Frames of context, the new one included."""
    denoising_steps: int = 10
    """Default steps per frame."""
    sampling_shift: float = 0.0
    """Noise-schedule shift for sampling; 0 takes the one of training."""
    autoencoder_network: VAEMiniConfig = field(default_factory=VAEMiniConfig)
    """Sizes of the autoencoder."""
    embedded: bool = True
    """Whether this is one of the small models that ship with wm_gym."""
    description: str = ""
    """One or two sentences for the card."""


def assemble(config: AssembleConfig) -> WorldModelSpec:
    """Write the checkpoint folder, weights in bfloat16.

    Returns:
        The card.
    """
    from dataclasses import asdict

    from safetensors.torch import load_file

    domain = DOMAINS[config.domain]
    trained = json.loads((config.dynamics / "dynamics.json").read_text())
    scale = json.loads((config.latents / "normalisation.json").read_text())
    weights = {
        "latent.safetensors": load_file(config.autoencoder / "autoencoder.safetensors"),
        "dynamics.safetensors": load_file(config.dynamics / "dynamics.safetensors"),
    }
    network = config.autoencoder_network
    recipe = {
        "commands": [
            "wm-gym collect",
            "wm-gym train autoencoder",
            "wm-gym train latents",
            "wm-gym train latent-dynamics",
            "wm-gym label-goals",
            "wm-gym train reward",
            "wm-gym train assemble",
        ],
        "settings": "benchmarks/recipes",
        "dynamics_steps": trained["steps"],
        "dynamics_hours": trained["hours"],
    }
    reward = distilled = None
    if config.reward is not None:
        record = json.loads((config.reward / "reward.json").read_text())
        weights["reward.safetensors"] = load_file(config.reward / "reward.safetensors")
        thresholds = {task: row["threshold"] for task, row in record["held_out"].items()}
        reward = RewardSpec(network=record["network"], threshold=thresholds)
    shift = config.sampling_shift or trained["shift"]
    if config.distilled is not None:
        record = json.loads((config.distilled / "distilled.json").read_text())
        weights["distilled.safetensors"] = load_file(config.distilled / "distilled.safetensors")
        distilled = DynamicsSpec(
            network=record["network"],
            shift=shift,
            denoising_steps=record["denoising_steps"],
            weights="distilled.safetensors",
        )
        recipe["distilled_hours"] = record["hours"]
    spec = WorldModelSpec(
        name=config.name,
        description=config.description
        or f"A small latent world model of wm_gym's {domain.twin} simulator, trained on two CPU "
        "cores by this repository's recipe. It is not one of the published models.",
        embedded=config.embedded,
        licence="Apache-2.0",
        training_data=domain.training_data,
        recipe=recipe,
        twin=domain.twin,
        frame=domain.frame,
        action=domain.action,
        latent=LatentSpec(
            space="vae-mini",
            grid=network.grid,
            channels=network.channels,
            mean=tuple(scale["mean"]),
            std=tuple(scale["std"]),
            config=asdict(network),
        ),
        context=ContextSpec(kind="banded", length=config.band),
        dynamics=DynamicsSpec(
            network=trained["network"], shift=shift, denoising_steps=config.denoising_steps
        ),
        distilled=distilled,
        reward=reward,
        tasks=domain.tasks,
        objects=domain.objects,
        horizon=domain.horizon,
        weights_sha256={},
    )
    written = save_checkpoint(config.out, spec, weights, dtype=torch.bfloat16)
    Checkpoint.open(config.out)
    return written
