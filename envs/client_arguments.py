"""What clients pass to `reset` beyond Gymnasium's words, and what they read beside its spaces."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

_MARKS = frozenset({"lerobot_new_rollout"})  # LeRobot's evaluation says so that a rollout begins


def whole_seed(seed: Any) -> Any:
    """A seed as Python's int, whatever integer type it has; None and the rest unchanged."""
    try:
        return seed if seed is None else operator.index(seed)
    except TypeError:
        return seed  # Gymnasium's error names it


def without_marks(options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a reset's options without those that say nothing about the episode."""
    return {key: value for key, value in options.items() if key not in _MARKS}


def whole_fps(rate_hz: float) -> int:
    """Frames per second for `metadata["render_fps"]`; 10 if the rate is 0, not known.

    pygame's clock, behind `gymnasium.utils.play`, takes whole numbers only.
    """
    return max(1, round(rate_hz)) if rate_hz else 10
