"""Replays recorded actions: open-loop control, for comparing a dream with what was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wm_gym.errors import UserError
from wm_gym.policies.base import Observation, Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from wm_gym.spec import ActionSpec, FrameSpec


class ActionReplayPolicy(Policy):
    """Carries out recorded sequences, then null actions (zeros clipped into the box).

    An episode replays sequence `seed % len(sequences)`, so that the runner's seeds choose it.

    Args:
        action_spec: language of the recorded actions.
        frame_spec: unused; any frames will do.
        sequences: recorded actions, each (T, A), physical units.
        chunk: actions it returns at once.
    """

    kind: ClassVar[str] = "action-replay"

    def __init__(
        self,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None = None,
        *,
        sequences: Sequence[np.ndarray],
        chunk: int = 1,
    ) -> None:
        super().__init__(action_spec, frame_spec)
        self.sequences = [np.asarray(sequence, np.float32) for sequence in sequences]
        if not self.sequences:
            raise UserError("sequences is empty; expected at least one (T, A) array of actions")
        for sequence in self.sequences:
            if sequence.ndim != 2 or sequence.shape[1] != action_spec.size:
                raise UserError(
                    f"a recorded sequence has shape {sequence.shape}, expected (T, "
                    f"{action_spec.size}) with components {list(action_spec.names)}"
                )
        self.chunk = chunk
        self._chosen: dict[int, int] = {}

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Chooses each row's sequence by its seed."""
        for row, seed in zip(rows, seeds, strict=True):
            self._chosen[int(row)] = int(seed) % len(self.sequences)

    def act(self, observation: Observation) -> np.ndarray:
        """The next (B, chunk, A) recorded actions."""
        rest = np.clip(0.0, self.action_spec.low, self.action_spec.high)
        chunks = np.tile(np.asarray(rest, np.float32), (len(observation), self.chunk, 1))
        for k, (row, step) in enumerate(zip(observation.rows, observation.steps, strict=True)):
            sequence = self.sequences[self._chosen.get(int(row), 0)]
            left = sequence[int(step) : int(step) + self.chunk]
            chunks[k, : len(left)] = left
        return chunks

    def config(self) -> dict[str, Any]:
        """Its chunk length and the number of sequences."""
        return {"chunk": self.chunk, "count": len(self.sequences)}

    def weights(self) -> dict[str, torch.Tensor]:
        """The sequences, as tensors."""
        import torch

        return {f"sequence.{k}": torch.tensor(a) for k, a in enumerate(self.sequences)}

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> ActionReplayPolicy:
        """Builds it from stored sequences."""
        sequences = [weights[f"sequence.{k}"].numpy() for k in range(config["count"])]
        return cls(action_spec, frame_spec, sequences=sequences, chunk=config["chunk"])
