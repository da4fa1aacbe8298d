"""What scripted behaviours of every simulator share: reading the state, limits and noise."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class HasPrivilegedState(Protocol):
    """A simulator that tells its privileged state."""

    def privileged_state(self) -> np.ndarray:
        """Returns the flat privileged state."""
        ...


def read_state(source: HasPrivilegedState | np.ndarray) -> np.ndarray:
    """Returns the flat privileged state of an environment, wrapped or not, or an array."""
    if isinstance(source, np.ndarray):
        return source
    return getattr(source, "unwrapped", source).privileged_state()


def limit(way: np.ndarray, length_m: float) -> np.ndarray:
    """Shortens a way (n,) to a length."""
    length = np.linalg.norm(way)
    return way if length <= length_m else way * (length_m / length)


def noisy(
    action: np.ndarray,
    rng: np.random.Generator,
    deviation: np.ndarray | float,
    low: np.ndarray | float,
    high: np.ndarray | float,
) -> np.ndarray:
    """Returns an action (A,) with Gaussian noise, within bounds, float32."""
    trembling = action + rng.normal(0.0, deviation, len(action))
    return np.clip(trembling, low, high).astype(np.float32)
