"""One door to all planners: a configuration, seeds and perhaps proposals in, a plan out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wm_gym.errors import UserError
from wm_gym.plain_torch import plain_torch
from wm_gym.planning.cem import CEMConfig, cem
from wm_gym.planning.gradient import GradientConfig, gradient_ascent
from wm_gym.planning.mppi import MPPIConfig, mppi
from wm_gym.planning.plan import ActionBox, Plan, ValueFunction, check_candidates, iteration_noise

PlannerConfig = MPPIConfig | CEMConfig | GradientConfig

PLANNERS: dict[str, type[MPPIConfig] | type[CEMConfig] | type[GradientConfig]] = {
    "mppi": MPPIConfig,
    "cem": CEMConfig,
    "gradient": GradientConfig,
}
"""Planners by name."""


@plain_torch()
def plan(
    value: ValueFunction,
    box: ActionBox,
    horizon: int,
    seeds: Sequence[int],
    config: PlannerConfig,
    proposals: Tensor | None = None,
) -> Plan:
    """Plan for B problems; a problem's plan does not depend on its neighbours.

    Args:
        value: value function over B problems.
        box: bounds of the actions.
        horizon: actions n of a plan.
        seeds: one per problem; all randomness is a function of them.
        config: which planner, and its settings.
        proposals: where to start, (B, K₀, n, A), e.g. a policy's samples. Sampling planners repeat
            or cut them to their number of candidates, gradient ascent starts from all of them.
            Without them the start is uniform in the box.

    Raises:
        ValueError: if there is no seed, no action to plan for, the proposals do not fit, or as the
            planners say.
    """
    if negative := [int(seed) for seed in seeds if seed < 0]:
        raise UserError(f"seeds {negative} are negative; expected whole numbers of at least 0")
    if horizon < 1 or not len(seeds):
        raise UserError(
            f"horizon={horizon} and {len(seeds)} seeds; expected at least 1 action to plan for, "
            "and a seed for each problem"
        )
    count = config.candidates
    if proposals is None:
        first = box.uniform(seeds, (count, horizon))
    else:
        check_candidates(proposals)
        size = len(box.low)
        rows, _, length, width = proposals.shape
        if (rows, length, width) != (len(seeds), horizon, size):
            raise UserError(
                f"proposals have shape {tuple(proposals.shape)}, expected ({len(seeds)}, K, "
                f"{horizon}, {size}): one row per seed and {horizon} actions of {size} components"
            )
        first = proposals
        if not isinstance(config, GradientConfig):
            first = proposals[:, torch.arange(count) % proposals.shape[1]]
    if isinstance(config, GradientConfig):
        return gradient_ascent(value, box, first, config)
    _, candidates, length, size = first.shape
    noise = iteration_noise(seeds, config.iterations, (candidates, length, size))
    if isinstance(config, MPPIConfig):
        return mppi(value, box, first, noise, config)
    return cem(value, box, first, noise, config)
