"""Slacks: how far a compared quantity is on the side of "yes", in ambiguity margins."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from wm_gym.semantic.questions import Limit


def below(value: np.ndarray, limit: Limit) -> np.ndarray:
    """Slack of "the value is below the limit"; any shape."""
    return (limit.threshold - value) / limit.margin


def above(value: np.ndarray, limit: Limit) -> np.ndarray:
    """Slack of "the value is above the limit"; any shape."""
    return (value - limit.threshold) / limit.margin


def ordered_pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second index of every ordered pair, in the order of `QuestionSet.instances`."""
    pairs = np.array(list(permutations(range(count), 2)), int).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
