"""What an environment shows of an imagined frame: pixels, latents, or a dict with goal and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.instructions import Goal
    from wm_gym.spec import WorldModelSpec

OBSERVATIONS = ("pixels", "latents", "dict")


def observation_space(spec: WorldModelSpec, obs: str) -> spaces.Space:
    """The space of one observation.

    Args:
        spec: the card.
        obs: "pixels": uint8 (H, W, 3). "latents": normalised latents, float32 (h, w, D).
            "dict": `pixels`, `goal` (see `goal_vector`) and `time_left`, the fraction of the
            horizon that remains, float32 (1,).

    Raises:
        ValueError: if `obs` is none of these.
    """
    pixels = spaces.Box(0, 255, (spec.frame.height, spec.frame.width, 3), np.uint8)
    if obs == "pixels":
        return pixels
    if obs == "latents":
        return spaces.Box(-np.inf, np.inf, (*spec.latent.grid, spec.latent.channels), np.float32)
    if obs == "dict":
        goal = spaces.Box(0, 1, (goal_vector(None, spec).size,), np.float32)
        time_left = spaces.Box(0, 1, (1,), np.float32)
        return spaces.Dict({"pixels": pixels, "goal": goal, "time_left": time_left})
    raise UserError(f"obs={obs!r} is unknown; expected one of {', '.join(map(repr, OBSERVATIONS))}")


def goal_vector(goal: Goal | None, spec: WorldModelSpec) -> np.ndarray:
    """A goal in numbers: one-hot task, one-hot first object, one-hot second object.

    Args:
        goal: the goal; None gives zeros.
        spec: the card, whose `tasks` and `objects` fix the order.

    Returns:
        float32 (tasks + 2 objects,), at least one number.
    """
    tasks = list(spec.tasks)
    vector = np.zeros(max(len(tasks) + 2 * len(spec.objects), 1), np.float32)
    if goal is not None:
        vector[tasks.index(goal.task)] = 1
        for slot, name in enumerate(goal.objects):
            vector[len(tasks) + slot * len(spec.objects) + spec.objects.index(name)] = 1
    return vector


def dict_observation(
    pixels: np.ndarray, goal: Goal | None, time_left: float, spec: WorldModelSpec
) -> dict[str, np.ndarray]:
    """One observation of `obs="dict"`."""
    return {
        "pixels": pixels,
        "goal": goal_vector(goal, spec),
        "time_left": np.array([time_left], np.float32),
    }
