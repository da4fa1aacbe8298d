"""Flow matching: the path from latents to noise, its training times, and the Euler sampler.

x_t = (1 - t)·x + t·ε with t in [0, 1], 1 being noise; the network predicts ε - x and reads t·1000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from wm_gym.errors import UserError

TIMESTEP_SCALE = 1000.0
REFERENCE_NUMBERS = 4096
"""Numbers in one frame for which the plain schedule is right."""


def schedule_shift(tokens: int, channels_per_token: int) -> float:
    """Shift s = sqrt(tokens · channels per token / 4096) of the noise schedule.

    Frames of more numbers need more noise to be hidden as well. The published SD3 VAE models use 1
    instead: that is data of their cards, not of this rule.

    Args:
        tokens: patches of one frame.
        channels_per_token: latent channels times patch².
    """
    return math.sqrt(tokens * channels_per_token / REFERENCE_NUMBERS)


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Move times towards noise: s·t / (1 + (s - 1)·t), any shape."""
    return shift * t / (1 + (shift - 1) * t)


def standard_normal(
    shape: tuple[int, ...], generator: torch.Generator | np.random.Generator
) -> Tensor:
    """Standard normal float32 numbers from either kind of generator."""
    if isinstance(generator, np.random.Generator):
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
    return torch.randn(shape, generator=generator, device=generator.device)


def sample_times(
    shape: tuple[int, ...], shift: float, generator: torch.Generator | np.random.Generator
) -> Tensor:
    """Training times: logit-normal(0, 1), independent per entry, then shifted."""
    return shift_time(torch.sigmoid(standard_normal(shape, generator)), shift)


def expand_times(t: Tensor, latents: Tensor) -> Tensor:
    """Append axes so that times (...,) broadcast against latents (..., h, w, C)."""
    return t[..., None, None, None].to(latents)


def add_noise(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point x_t: latents and noise (..., h, w, C), t (...,)."""
    return torch.lerp(latents, noise, expand_times(t, latents))


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """What the network learns to predict, ε - x."""
    return noise - latents


def noise_history(
    latents: Tensor, generator: torch.Generator | np.random.Generator, sigma: float = 0.3
) -> Tensor:
    """Light training noise on context frames, variance kept: (z + σ·η) / sqrt(σ² + 1).

    σ is drawn per frame as `sigma` times a standard normal number.

    Args:
        latents: (..., h, w, C), variance about 1.
        generator: numpy or torch.
        sigma: standard deviation of σ.
    """
    level = sigma * expand_times(standard_normal(tuple(latents.shape[:-3]), generator), latents)
    noise = standard_normal(tuple(latents.shape), generator).to(latents)
    return (latents + level * noise) / (level.square() + 1).sqrt()


def keep_unchanged(latents: Tensor, previous: Tensor, threshold: float) -> Tensor:
    """Latents (..., h, w, C) whose little-changed cells are exactly those of `previous`.

    Args:
        latents: a predicted frame.
        previous: the frame before, of the same shape.
        threshold: mean absolute change over channels below which a cell did not change.
    """
    change = (latents - previous).abs().mean(-1, keepdim=True)
    return torch.where(change < threshold, previous, latents)


@dataclass(frozen=True)
class FlowSampler:
    """Euler steps from noise to a latent frame on the shifted schedule.

    Attributes:
        steps: number of Euler steps K, any.
        shift: schedule shift.
        context_label: time written on context frames, which are not noised.
        unchanged_threshold: mean absolute change of a cell, in standard deviations of the latents,
            below which it stays exactly as it was in the frame before; 0 (the published models)
            takes every cell as it was sampled.
    """

    steps: int = 10
    shift: float = 1.0
    context_label: float = 0.01
    unchanged_threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"a sampler needs at least one denoising step, got {self.steps}")
        if not self.shift > 0:
            raise UserError(f"the schedule shift must be positive, got {self.shift}")
        if not 0 <= self.unchanged_threshold < float("inf"):
            raise UserError(
                f"unchanged_threshold {self.unchanged_threshold} must be 0 (off) or more"
            )

    @cached_property
    def schedule(self) -> Tensor:
        """Times visited, (K + 1,), from 1 to 0."""
        return shift_time(torch.linspace(1, 0, self.steps + 1), self.shift)

    @property
    def context_timestep(self) -> float:
        """Timestep of context frames on the network's scale."""
        return self.context_label * TIMESTEP_SCALE

    def context_input(self, latents: Tensor) -> Tensor:
        """Context frames as the network reads them: unchanged."""
        return latents

    def timestep(self, step: int) -> float:
        """What the network reads at denoising step 0 … K - 1."""
        return float(self.schedule[step] * TIMESTEP_SCALE)

    def advance(self, noisy: Tensor, prediction: Tensor, step: int) -> Tensor:
        """One Euler step, (..., h, w, C)."""
        now, after = self.schedule[step : step + 2]
        return noisy - float(now - after) * prediction

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, step: int) -> Tensor:
        """The latents that the prediction points to, (..., h, w, C)."""
        return noisy - float(self.schedule[step]) * prediction

    def settle(self, latents: Tensor, previous: Tensor) -> Tensor:
        """The finished frame (..., h, w, C), given the sampled one and the frame before."""
        if not self.unchanged_threshold:
            return latents
        return keep_unchanged(latents, previous, self.unchanged_threshold)
