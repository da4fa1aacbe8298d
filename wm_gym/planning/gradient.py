"""Gradient ascent on action sequences from a policy's proposals (arXiv:2510.19818, 3.3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wm_gym.choices import check_choice
from wm_gym.errors import UserError
from wm_gym.plain_torch import plain_torch
from wm_gym.planning.plan import (
    ActionBox,
    Plan,
    ValueFunction,
    best_of,
    check_candidates,
    evaluate,
)


@dataclass(frozen=True)
class GradientConfig:
    """How to ascend.

    The defaults are the paper's for LangTable; for OGBench it takes 20 iterations, a learning rate
    of 0.2 and a clip of 10.
    """

    iterations: int = 10
    """Steps."""
    learning_rate: float = 0.02
    """Physical action units per unit of gradient."""
    clip: float = 1.0
    """Largest norm of the gradient of one problem."""
    clip_over: Literal["problem", "candidate"] = "problem"
    """Whether the norm is that of all candidates of a problem together (the published code) or of
    each candidate."""
    clamp_first: bool = True
    """Clamp proposals to the box before they are evaluated; the published code does not."""
    select: Literal["after_last_step", "before_last_step"] = "after_last_step"
    """Which values choose among several candidates: of what is executed, at the price of one more
    evaluation, or of what it was before the last step (the published code)."""
    candidates: int = 1
    """Uniform action sequences to start from where nothing is proposed."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        amounts = (self.learning_rate, self.clip)
        if min(self.iterations, self.candidates) < 1 or not all(0 < a < math.inf for a in amounts):
            raise UserError(
                f"iterations={self.iterations} and candidates={self.candidates} must be at least "
                f"1, and learning_rate={self.learning_rate} and clip={self.clip} above 0 and finite"
            )
        check_choice("clip_over", self.clip_over, ("problem", "candidate"))
        check_choice("select", self.select, ("after_last_step", "before_last_step"))


@plain_torch()
def gradient_ascent(
    value: ValueFunction, box: ActionBox, first: Tensor, config: GradientConfig
) -> Plan:
    """Plan for B problems at once; a pure function of its arguments.

    Args:
        value: value function, differentiable in the actions.
        box: bounds; actions are clamped to them after every step.
        first: proposals, (B, K, n, A).
        config: settings.

    Returns:
        The plan: the best candidate after the last step. `batches` are the candidates before each
        step and, last, after the last one; `batch_values` their values, for the last only if they
        choose. `trace` has `gradients` of the summed values before clipping, (B, K, n, A), and
        `norms`, (B,) or (B, K).

    Raises:
        ValueError: for shapes that do not fit, or a value function without a gradient.
    """
    check_candidates(first)
    batch = (box.clamp(first) if config.clamp_first else first).detach()
    batches, values = [batch], []
    gradients, norms = [], []
    axes = (1, 2, 3) if config.clip_over == "problem" else (2, 3)
    for _ in range(config.iterations):
        with torch.enable_grad():
            variable = batch.requires_grad_()
            found = evaluate(value, variable)
            if not found.requires_grad:
                raise UserError(
                    "the value function has no gradient with respect to the actions; gradient "
                    "planning needs a semantic world model's value, rollouts of a latent world "
                    "model need MPPI or CEM"
                )
            (gradient,) = torch.autograd.grad(found.sum(), variable)
        norm = gradient.square().sum(axes, keepdim=True).sqrt()
        scale = (config.clip / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        batch = box.clamp(variable.detach() + config.learning_rate * scale * gradient)
        values.append(found.detach())
        batches.append(batch)
        gradients.append(gradient)
        norms.append(norm[:, 0, 0, 0] if config.clip_over == "problem" else norm[:, :, 0, 0])
    if config.select == "after_last_step":
        with torch.no_grad():
            values.append(evaluate(value, batch))
    actions, best = best_of(batch, values[-1])
    batches = [b.detach() for b in batches]
    return Plan(actions, best, batches, values, {"gradients": gradients, "norms": norms})
