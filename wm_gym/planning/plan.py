"""What planners share: the value function, the action box, seeded draws, and the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from wm_gym.dynamics.noise import row_generator
from wm_gym.errors import UserError
from wm_gym.spec import ActionSpec

FIRST_BATCH_STREAM, ITERATION_STREAM = 101, 102
"""Streams of `row_generator`: the uniform first batch, and the noise of each iteration."""

Executed = Literal["mean", "best"]


ValueFunction = Callable[[Tensor], Tensor]
"""Values (B, K) of actions (B, K, n, A) in physical units, for B problems with K candidates each;
higher is better."""


@dataclass(frozen=True)
class ActionBox:
    """Bounds of every action.

    Attributes:
        low: (A,) physical units.
        high: (A,) physical units.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, spec: ActionSpec) -> ActionBox:
        """The bounds that a card states."""
        return cls(torch.tensor(spec.low), torch.tensor(spec.high))

    def clamp(self, actions: Tensor) -> Tensor:
        """Actions (..., A) within the bounds."""
        return actions.clamp(self.low.to(actions), self.high.to(actions))

    def uniform(self, seeds: Sequence[int], shape: tuple[int, int]) -> Tensor:
        """Uniform candidates (B, K, n, A): each row's a function of its seed alone.

        Args:
            seeds: one per problem.
            shape: (K, n).
        """
        size = (*shape, len(self.low))
        rows = [row_generator(int(s), 0, FIRST_BATCH_STREAM).random(size, "f4") for s in seeds]
        unit = torch.stack([torch.from_numpy(row) for row in rows])
        return self.low + unit * (self.high - self.low)


def iteration_noise(
    seeds: Sequence[int], iterations: int, candidates: tuple[int, int, int]
) -> Tensor:
    """Standard normal noise (iterations, B, K, n, A), each row's a function of its seed alone.

    Args:
        seeds: one per problem.
        iterations: how many.
        candidates: (K, n, A).
    """
    noise = torch.empty(iterations, len(seeds), *candidates)
    for step in range(iterations):
        for row, seed in enumerate(seeds):
            drawn = row_generator(int(seed), step, ITERATION_STREAM)
            noise[step, row] = torch.from_numpy(drawn.standard_normal(candidates, "f4"))
    return noise


@dataclass(frozen=True)
class Plan:
    """What a planner found for B problems.

    Attributes:
        actions: the sequence to execute, (B, n, A), physical units.
        values: value of the candidate it is, or was made from, (B,); see the planner.
        batches: candidates by iteration, each (B, K, n, A).
        batch_values: their values, each (B, K).
        trace: further tensors by iteration, by name.
    """

    actions: Tensor
    values: Tensor
    batches: list[Tensor]
    batch_values: list[Tensor]
    trace: dict[str, list[Tensor]] = field(default_factory=dict)


def evaluate(value: ValueFunction, candidates: Tensor) -> Tensor:
    """Values (B, K) of candidates (B, K, n, A), on the candidates' device.

    Raises:
        ValueError: if the value function gives another shape, NaN or infinite values.
    """
    found = value(candidates)
    if found.shape != candidates.shape[:2]:
        raise UserError(
            f"the value function gave shape {tuple(found.shape)} for candidates "
            f"{tuple(candidates.shape)}, expected (B, K) = {tuple(candidates.shape[:2])}"
        )
    if not torch.isfinite(found).all():
        raise UserError(
            "the value function gave NaN or infinite values; check the model and the actions"
        )
    return found.to(candidates.device)  # a model on a GPU answers there


def check_candidates(candidates: Tensor) -> None:
    """Refuse candidates that are not a finite (B, K, n, A) with none of them 0.

    Raises:
        ValueError: naming what was given.
    """
    if candidates.dim() != 4 or 0 in candidates.shape or not torch.isfinite(candidates).all():
        raise UserError(
            f"candidates have shape {tuple(candidates.shape)}, expected finite numbers (B, K, n, "
            "A), none of these sizes 0"
        )


def best_of(candidates: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The best candidate of each problem, (B, n, A), and its value, (B,)."""
    index = values.argmax(1)
    rows = torch.arange(len(candidates), device=candidates.device)
    return candidates[rows, index], values[rows, index]
