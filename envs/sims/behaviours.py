"""Who acts in each simulator when episodes are collected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np


class Behaviour(Protocol):
    """Somebody who acts in a simulator and may read its privileged state."""

    def reset(self, goal: Any, rng: np.random.Generator, objects: tuple[str, ...]) -> None:
        """Begin an episode with this goal of the simulator, among these objects."""
        ...

    def act(self, source: Any) -> np.ndarray:
        """The action (A,) for the simulator's present state, physical units."""
        ...


Behaviours = dict[str, Callable[[np.random.Generator], Behaviour]]
"""Makes a behaviour of an episode from its generator, by name."""


def langtable_behaviours(noise: tuple[float, float] | None = None) -> Behaviours:
    """Who acts in LangTable; a noisy expert's noise differs from episode to episode.

    Args:
        noise: range of its standard deviation in metres, 3 to 20 mm by default.
    """
    from wm_gym.envs.sims.langtable.expert import Expert, NoisyExpert
    from wm_gym.envs.sims.langtable.play import NearMiss, RandomPlay

    low_m, high_m = noise or (0.003, 0.02)
    return {
        "expert": lambda rng: Expert(),
        "noisy_expert": lambda rng: NoisyExpert(noise_m=rng.uniform(low_m, high_m)),
        "random": lambda rng: RandomPlay(),
        "near_miss": lambda rng: NearMiss(),
    }


def bridge_behaviours(noise: tuple[float, float] | None = None) -> Behaviours:
    """Who acts in BridgeSim; a noisy expert's noise differs from episode to episode.

    Args:
        noise: range of it, 0.1 to 0.5 by default.
    """
    from wm_gym.envs.sims.bridge.expert import Expert, NoisyExpert
    from wm_gym.envs.sims.bridge.play import NearMiss, RandomPlay

    low, high = noise or (0.1, 0.5)
    return {
        "expert": lambda rng: Expert(),
        "noisy_expert": lambda rng: NoisyExpert(noise=rng.uniform(low, high)),
        "random": lambda rng: RandomPlay(),
        "near_miss": lambda rng: NearMiss(),
    }


def cube_behaviours(noise: tuple[float, float] | None = None) -> Behaviours:
    """Who acts in Cube; a noisy expert's noise differs from episode to episode.

    Args:
        noise: range of it, as a fraction of the largest action, 0.1 to 0.5 by default.
    """
    from wm_gym.envs.sims.cube.expert import Expert, NoisyExpert
    from wm_gym.envs.sims.cube.play import NearMiss, RandomPlay

    low, high = noise or (0.1, 0.5)
    return {
        "expert": lambda rng: Expert(),
        "noisy_expert": lambda rng: NoisyExpert(noise=rng.uniform(low, high)),
        "random": lambda rng: RandomPlay(),
        "near_miss": lambda rng: NearMiss(),
    }


BEHAVIOURS: dict[str, Callable[[tuple[float, float] | None], Behaviours]] = {
    "LangTable-v0": langtable_behaviours,
    "BridgeSim-v0": bridge_behaviours,
    "Cube-v0": cube_behaviours,
}
"""Simulator id -> who acts there, given the range of a noisy expert's noise or None."""
