"""What an engine remembers of a row, and what a step of all rows returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wm_gym.instructions import Goal


@dataclass
class Episode:
    """What the engine remembers of one row besides its rollout."""

    instruction: str = ""
    goal: Goal | None = None
    start: str | None = None
    steps: int = 0
    ended: bool = True
    distance_m: float = float("nan")
    success_at_reset: bool = False
    recent: list[float] = field(default_factory=list)
    """What the reward remembers of the last steps, see `Scores.recent`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the goal follows from the instruction."""
        return {key: value for key, value in vars(self).items() if key != "goal"}


@dataclass(frozen=True)
class Transition:
    """One step of B rows: rewards, terminated, truncated (B,) and one info per row."""

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: list[dict[str, Any]] = field(default_factory=list)
