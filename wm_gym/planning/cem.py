"""The cross-entropy method (Rubinstein and Kroese 2004)."""

from __future__ import annotations

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


@dataclass(frozen=True)
class CEMConfig:
    """How to sample."""

    candidates: int = 32
    """Action sequences sampled in every iteration, K."""
    elites: int = 6
    """Best candidates that the next mean and deviation are fitted to."""
    iterations: int = 6
    """Times that mean and deviation are fitted and sampled from."""
    smoothing: float = 0.1
    """Share of the last mean and deviation that is kept."""
    execute: Executed = "mean"
    """What is executed: the mean of the last batch's elites, or its best candidate."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.elites <= self.candidates or self.iterations < 0:
            raise UserError(
                f"elites={self.elites} must be 1 to candidates={self.candidates}, and iterations="
                f"{self.iterations} at least 0"
            )
        if not 0 <= self.smoothing < 1:
            raise UserError(f"smoothing={self.smoothing} must be at least 0 and below 1")
        check_choice("execute", self.execute, ("mean", "best"))


@plain_torch()
@torch.no_grad()
def cem(
    value: ValueFunction, box: ActionBox, first: Tensor, noise: Tensor, config: CEMConfig
) -> Plan:
    """Plan for B problems at once; a pure function of its arguments.

    Args:
        value: value function.
        box: bounds; candidates are clamped to them.
        first: first batch, (B, K, n, A).
        noise: standard normal, (iterations, B, K, n, A).
        config: settings.

    Returns:
        The plan; `values` are those of the best candidate of the last batch. `trace` has `means`
        and `stds`, each (B, n, A), that the batches after the first were drawn from.

    Raises:
        ValueError: for shapes that do not fit or values that are not finite.
    """
    check_candidates(first)
    if noise.shape != (config.iterations, *first.shape) or first.shape[1] < config.elites:
        raise UserError(
            f"noise has shape {tuple(noise.shape)}, expected {(config.iterations, *first.shape)}; "
            f"and there must be at least elites={config.elites} candidates"
        )
    batch = box.clamp(first)
    batches, values = [batch], [evaluate(value, batch)]
    means, stds = [], []
    for eps in noise:
        mean, std = _fit(batch, values[-1], config.elites)
        if means:
            mean = torch.lerp(mean, means[-1], config.smoothing)
            std = torch.lerp(std, stds[-1], config.smoothing)
        batch = box.clamp(mean[:, None] + std[:, None] * eps.to(batch))
        means.append(mean)
        stds.append(std)
        batches.append(batch)
        values.append(evaluate(value, batch))
    actions, best = best_of(batch, values[-1])
    if config.execute == "mean":
        actions = _fit(batch, values[-1], config.elites)[0]
    return Plan(actions, best, batches, values, {"means": means, "stds": stds})


def _fit(batch: Tensor, values: Tensor, elites: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, n, A) of the best candidates."""
    chosen = values.topk(elites, dim=1).indices
    rows = torch.arange(len(batch), device=batch.device)[:, None]
    best = batch[rows, chosen]
    return best.mean(1), best.std(1, correction=0)
