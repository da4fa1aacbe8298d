"""DDPM with v-prediction: the alternative objective of the published code, sampled by DDIM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wm_gym.errors import UserError

TRAINING_STEPS = 1000
CONTEXT_STEP = 14
"""Discrete time of context frames: scaled as if that noise had been added, but without noise."""


def sigmoid_alphas_cumprod(steps: int = TRAINING_STEPS) -> Tensor:
    """Signal power left after each step of the sigmoid schedule from -3 to 3, (steps,)."""
    t = torch.linspace(0, steps, steps + 1, dtype=torch.float64) / steps
    start, end = torch.tensor([-3.0, 3.0], dtype=torch.float64).sigmoid()
    signal = (end - (6 * t - 3).sigmoid()) / (end - start)
    signal = signal / signal[0]
    betas = (1 - signal[1:] / signal[:-1]).clamp(0, 0.999).float()
    return (1 - betas).cumprod(0)


def sampling_steps(count: int, steps: int = TRAINING_STEPS) -> list[int]:
    """Discrete times of `count` DDIM steps, ascending from -1 (clean), count + 1 of them."""
    return torch.linspace(-1, steps - 1, count + 1).long().tolist()


def velocity(latents: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """Training target v = sqrt(ᾱ)·ε - sqrt(1 - ᾱ)·x; `signal` ᾱ broadcasts against the latents."""
    return signal.sqrt() * noise - (1 - signal).sqrt() * latents


def add_noise(latents: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """sqrt(ᾱ)·x + sqrt(1 - ᾱ)·ε; `signal` ᾱ broadcasts against the latents."""
    return signal.sqrt() * latents + (1 - signal).sqrt() * noise


@dataclass(frozen=True)
class DDPMSampler:
    """Deterministic DDIM steps over the v-prediction of a DDPM network.

    Attributes:
        steps: number of DDIM steps K.
        context_step: discrete time written on context frames.
    """

    steps: int = 10
    context_step: int = CONTEXT_STEP

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= TRAINING_STEPS:
            raise UserError(f"DDIM takes 1 to {TRAINING_STEPS} steps, got {self.steps}")

    @cached_property
    def signal(self) -> Tensor:
        """ᾱ, (1000,)."""
        return sigmoid_alphas_cumprod()

    @cached_property
    def schedule(self) -> list[int]:
        """Discrete times visited, from 999 down to -1, K + 1 of them."""
        return sampling_steps(self.steps)[::-1]

    @property
    def context_timestep(self) -> float:
        """Timestep of context frames on the network's scale."""
        return float(self.context_step)

    def context_input(self, latents: Tensor) -> Tensor:
        """Context frames as the network reads them: scaled by sqrt(ᾱ) of their label."""
        return latents * float(self.signal[self.context_step].sqrt())

    def timestep(self, step: int) -> float:
        """What the network reads at denoising step 0 … K - 1."""
        return float(self.schedule[step])

    def _signal_at(self, step: int) -> Tensor:
        time = self.schedule[step]
        return self.signal[time] if time >= 0 else torch.ones(())

    def advance(self, noisy: Tensor, prediction: Tensor, step: int) -> Tensor:
        """One DDIM step, (..., h, w, C)."""
        now, after = self._signal_at(step), self._signal_at(step + 1)
        noise = float((1 - now).sqrt()) * noisy + float(now.sqrt()) * prediction
        clean = self.clean_estimate(noisy, prediction, step)
        return float(after.sqrt()) * clean + float((1 - after).sqrt()) * noise

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, step: int) -> Tensor:
        """The latents that the prediction points to, (..., h, w, C)."""
        now = self._signal_at(step)
        return float(now.sqrt()) * noisy - float((1 - now).sqrt()) * prediction

    def settle(self, latents: Tensor, previous: Tensor) -> Tensor:
        """The finished frame: as it was sampled."""
        del previous
        return latents
