"""The noise of a diffusion policy: DDPM adds it in training, DDIM takes it away (diffusers)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler  # pyright: ignore[reportPrivateImportUsage]

from wm_gym.errors import UserError

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class NoiseConfig:
    """How much noise there is at each diffusion step, and what is predicted."""

    steps: int = 100
    """Diffusion steps in training."""
    schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear"] = "squaredcos_cap_v2"
    """Noise schedule, by diffusers' name; the published one is the squared cosine."""
    beta_start: float = 1e-4
    """First beta of the linear schedules."""
    beta_end: float = 0.02
    """Last beta of the linear schedules."""
    prediction: Literal["epsilon", "sample"] = "epsilon"
    """Whether the network predicts the noise or the actions."""
    clip: float = 1.0
    """Bound of normalised actions, kept at every step of sampling; 0 is none."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.steps < 1 or not 0 <= self.clip < math.inf:
            raise UserError(
                f"steps={self.steps}, clip={self.clip}: expected at least 1, and 0 or more"
            )


def training_scheduler(config: NoiseConfig) -> DDPMScheduler:
    """The scheduler whose `add_noise` makes training examples."""
    return DDPMScheduler(**_settings(config))


def denoise(
    config: NoiseConfig, denoiser: Denoiser, noise: torch.Tensor, steps: int
) -> torch.Tensor:
    """Makes actions of noise with deterministic DDIM steps (arXiv:2010.02502, eq. 12 with σ = 0).

    Args:
        config: the noise that the denoiser was trained with.
        denoiser: noisy actions (B, T, A) and diffusion times (B,) -> its prediction.
        noise: standard normal, (B, T, A).
        steps: evenly spaced, 1 to `config.steps`.

    Returns:
        Normalised actions, (B, T, A).
    """
    scheduler = DDIMScheduler(**_settings(config))
    scheduler.set_timesteps(steps)
    actions = noise
    for time in scheduler.timesteps.tolist():
        times = torch.full((len(noise),), time, device=noise.device)
        predicted = denoiser(actions, times)
        actions = scheduler.step(predicted, time, actions, return_dict=False)[0]
    return actions


def _settings(config: NoiseConfig) -> dict[str, Any]:
    return {
        "num_train_timesteps": config.steps,
        "beta_schedule": config.schedule,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "prediction_type": config.prediction,
        "clip_sample": config.clip > 0,
        "clip_sample_range": config.clip,
    }
