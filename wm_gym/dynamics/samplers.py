"""What every sampler offers to a rollout, and the one place that chooses one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from wm_gym.dynamics.diffusion import DDPMSampler
from wm_gym.dynamics.flow import FlowSampler
from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.spec import DynamicsSpec


class Sampler(Protocol):
    """Turns noise into a frame in `steps` network passes."""

    @property
    def steps(self) -> int:
        """Network passes per frame."""
        ...

    @property
    def context_timestep(self) -> float:
        """Timestep of context frames on the network's scale."""
        ...

    def context_input(self, latents: Tensor) -> Tensor:
        """Context frames (..., h, w, C) as the network reads them."""
        ...

    def timestep(self, step: int) -> float:
        """What the network reads at denoising step 0 … steps - 1."""
        ...

    def advance(self, noisy: Tensor, prediction: Tensor, step: int) -> Tensor:
        """The next, less noisy point, (..., h, w, C)."""
        ...

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, step: int) -> Tensor:
        """The latents that the prediction points to, (..., h, w, C)."""
        ...

    def settle(self, latents: Tensor, previous: Tensor) -> Tensor:
        """The finished frame (..., h, w, C), given the sampled one and the frame before."""
        ...


def make_sampler(
    dynamics: DynamicsSpec, denoising_steps: int | None = None, context_label: float = 0.01
) -> Sampler:
    """The sampler of a card's dynamics.

    Args:
        dynamics: objective, shift and default number of steps.
        denoising_steps: overrides the number of steps.
        context_label: flow time written on context frames; DDPM models have their own fixed label.
    """
    steps = denoising_steps or dynamics.denoising_steps
    if dynamics.objective == "flow":
        return FlowSampler(steps, dynamics.shift, context_label, dynamics.unchanged_threshold)
    if dynamics.objective == "ddpm":
        if dynamics.unchanged_threshold:
            raise UserError(
                f"unchanged_threshold {dynamics.unchanged_threshold} needs objective 'flow', got "
                "'ddpm'; set it to 0"
            )
        return DDPMSampler(steps)
    raise UserError(f"objective must be 'flow' or 'ddpm', got {dynamics.objective!r}")
