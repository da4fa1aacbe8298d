"""Uniformly random actions: the policy that any other must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wm_gym.errors import UserError
from wm_gym.policies.base import Observation, Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wm_gym.spec import ActionSpec, FrameSpec


class RandomPolicy(Policy):
    """Draws every action uniformly from the action box.

    Args:
        action_spec: the box.
        frame_spec: unused; any frames will do.
        chunk: actions it returns at once.
        hold: steps for which an action is held; longer ones wander farther.
    """

    kind: ClassVar[str] = "random"

    def __init__(
        self,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None = None,
        *,
        chunk: int = 1,
        hold: int = 1,
    ) -> None:
        super().__init__(action_spec, frame_spec)
        if chunk < 1 or hold < 1:
            raise UserError(f"chunk={chunk}, hold={hold}: expected at least 1 each")
        self.chunk, self.hold = chunk, hold
        self._seeds: dict[int, int] = {}

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes; see `Policy.reset`."""
        self._seeds.update(zip(map(int, rows), map(int, seeds), strict=True))

    def act(self, observation: Observation) -> np.ndarray:
        """Draws (B, chunk, A); a function of seed and step alone."""
        low, high = np.asarray(self.action_spec.low), np.asarray(self.action_spec.high)
        chunks = []
        for row, step in zip(observation.rows, observation.steps, strict=True):
            seed = self._seeds.get(int(row), 0)
            numbers = [(int(step) + k) // self.hold for k in range(self.chunk)]
            chunks.append(
                [np.random.default_rng((seed, number)).uniform(low, high) for number in numbers]
            )
        return np.asarray(chunks, np.float32)

    def config(self) -> dict[str, Any]:
        """Its two numbers."""
        return {"chunk": self.chunk, "hold": self.hold}
