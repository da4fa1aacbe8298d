"""The policy that does nothing: what it reaches, nobody has earned."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from wm_gym.policies.base import Observation, Policy


class NullPolicy(Policy):
    """Stays where it is: zero in every component, or what is nearest to it within the range.

    As a control in an evaluation it tells how much success comes without any action.
    """

    kind: ClassVar[str] = "null"

    def act(self, observation: Observation) -> np.ndarray:
        """One null action per row, (B, 1, A)."""
        spec = self.action_spec
        action = np.clip(np.zeros(spec.size, np.float32), spec.low, spec.high)
        return np.tile(action.astype(np.float32), (len(observation), 1, 1))
