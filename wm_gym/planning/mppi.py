"""Model predictive path integral control (Williams et al. 2016; Eq. 3 of arXiv:2510.19818)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wm_gym.choices import check_choice
from wm_gym.errors import UserError
from wm_gym.plain_torch import plain_torch
from wm_gym.planning.plan import (
    ActionBox,
    Executed,
    Plan,
    ValueFunction,
    best_of,
    check_candidates,
    evaluate,
)

MIN_TEMPERATURE = 1e-9
"""Below this V / λ leaves the range of float32."""


@dataclass(frozen=True)
class MPPIConfig:
    """How to sample. 16 candidates and 8 iterations are the paper's setting for its timings."""

    candidates: int = 16
    """Action sequences sampled in every iteration, K."""
    iterations: int = 8
    """Times that mean and deviation are fitted and sampled from."""
    temperature: float = 0.05
    """λ in the weights softmax(V / λ). The published code uses 1 on values that count every prefix
    once per action (`ValueConfig.count`)."""
    execute: Executed = "mean"
    """What is executed: the weighted mean of the last batch (the paper) or its best candidate (the
    published code)."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        sampled = self.candidates >= 1 and self.iterations >= 0
        if not sampled or not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise UserError(
                f"candidates={self.candidates} must be at least 1, iterations={self.iterations} at "
                f"least 0 and temperature={self.temperature} finite and at least {MIN_TEMPERATURE}"
            )
        check_choice("execute", self.execute, ("mean", "best"))


@plain_torch()
@torch.no_grad()
def mppi(
    value: ValueFunction, box: ActionBox, first: Tensor, noise: Tensor, config: MPPIConfig
) -> Plan:
    """Plan for B problems at once; a pure function of its arguments.

    Every iteration fits mean and standard deviation, per step and component, to the last batch
    with weights softmax(V / λ), and samples the next batch from them.

    Args:
        value: value function.
        box: bounds; candidates are clamped to them.
        first: first batch, (B, K, n, A): uniform in the box, or proposals of a policy.
        noise: standard normal, (iterations, B, K, n, A).
        config: settings.

    Returns:
        The plan; `values` are those of the best candidate of the last batch. `trace` has `means`
        and `stds`, each (B, n, A), that the batches after the first were drawn from.

    Raises:
        ValueError: for shapes that do not fit or values that are not finite.
    """
    check_candidates(first)
    if noise.shape != (config.iterations, *first.shape):
        raise UserError(
            f"noise has shape {tuple(noise.shape)}, expected {(config.iterations, *first.shape)}: "
            "iterations, then the shape of the first batch"
        )
    batch = box.clamp(first)
    batches, values = [batch], [evaluate(value, batch)]
    means, stds = [], []
    for eps in noise:
        mean, std = _weighted(batch, values[-1], config.temperature)
        batch = box.clamp(mean[:, None] + std[:, None] * eps.to(batch))
        means.append(mean)
        stds.append(std)
        batches.append(batch)
        values.append(evaluate(value, batch))
    actions, best = best_of(batch, values[-1])
    if config.execute == "mean":
        actions = _weighted(batch, values[-1], config.temperature)[0]
    return Plan(actions, best, batches, values, {"means": means, "stds": stds})


def _weighted(batch: Tensor, values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, n, A) of a batch under the weights softmax(V / λ)."""
    weights = (values / temperature).softmax(1)[..., None, None]
    mean = (weights * batch).sum(1)
    variance = (weights * (batch - mean[:, None]).square()).sum(1)
    return mean, variance.sqrt() + 1e-9
