"""Makes a simulator and those who act in it, wherever episodes are collected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from wm_gym.domains import domain_of
from wm_gym.envs.sims.behaviours import BEHAVIOURS, Behaviours
from wm_gym.errors import UserError

Factory = Callable[[], tuple[gym.Env, Behaviours]]
"""Makes the simulator and its behaviours, once in every worker: picklable and hashable."""


@dataclass(frozen=True)
class SimulatorFactory:
    """Makes a registered simulator with pixel observations, and its behaviours."""

    env_id: str
    frame_size: str
    horizon: int
    noise: tuple[float, float] | None = None
    objects: str = ""
    background: str = ""
    switches: tuple[tuple[str, str], ...] = ()

    def __call__(self) -> tuple[gym.Env, Behaviours]:
        """The simulator and its behaviours.

        Raises:
            ValueError: if nobody is known who acts in this simulator, or it has no such switch.
        """
        import wm_gym  # noqa: F401  registers the ids

        if self.env_id not in BEHAVIOURS:
            raise UserError(
                f"env_id {self.env_id!r} has no scripted behaviours, expected one of "
                f"{sorted(BEHAVIOURS)}; pass collect(config, factory=...) for another simulator"
            )
        domain = domain_of(self.env_id)
        chosen: dict[str, Any] = {"background": self.background} if self.background else {}
        if domain and self.objects:
            chosen[domain.objects_keyword] = self.objects
        chosen |= {
            "frame_size": self.frame_size,
            "horizon": self.horizon,
            "terminate_on_success": False,
        }
        if taken := sorted(set(chosen) & set(dict(self.switches))):
            raise UserError(f"switches {taken} have settings of their own; use those")
        switches: dict[str, Any] = dict(self.switches)
        try:
            env = gym.make(self.env_id, disable_env_checker=True, **chosen, **switches)
        except TypeError as error:
            raise UserError(
                f"switches={switches} do not all belong to {self.env_id!r} ({error}); its "
                "arguments are in docs/environments.md"
            ) from error
        return env, BEHAVIOURS[self.env_id](self.noise)
