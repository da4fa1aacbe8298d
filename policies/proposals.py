"""What policies that plan share: where plans start from, and the seed of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wm_gym.policies.base import Observation, Policy, build, describe, policy_identity
from wm_gym.policies.chunks import ChunkError, Chunks, join_chunks, read_chunks
from wm_gym.policies.compatibility import check_compatible
from wm_gym.spec import ActionSpec, FrameSpec

if TYPE_CHECKING:
    from wm_gym.semantic.world_model import SemanticWorldModel
    from wm_gym.world_model import LatentWorldModel


@dataclass(frozen=True)
class Drawn:
    """Where the plans of B rows start from.

    Attributes:
        sequences: action sequences (B, K, n, A) of K policies, None without any; zeros in rows of
            which a policy gave none.
        faults: why, by such a row's place in the batch.
    """

    sequences: torch.Tensor | None
    faults: dict[int, ChunkError]

    def carried_out(self, actions: torch.Tensor) -> Chunks:
        """The planned actions (B, m, A) of the sound rows, the faults of the others."""
        rows: list[np.ndarray | ChunkError] = list(actions.cpu().numpy().astype(np.float32))
        for k, fault in self.faults.items():
            rows[k] = fault
        return join_chunks(rows)


class Proposals:
    """Policies whose chunks are the action sequences that planning starts from.

    Args:
        bases: the policies; longer chunks are cut, shorter ones go on with their last action.
        action_spec: of the planner; the policies' actions are converted into it.
        frame_spec: of the planner, None if any frames will do.

    Raises:
        IncompatiblePolicyError: if a policy speaks another action language.
    """

    def __init__(
        self, bases: Sequence[Policy], action_spec: ActionSpec, frame_spec: FrameSpec | None
    ) -> None:
        self.bases = tuple(bases)
        self.conversions = [check_compatible(base, action_spec, frame_spec) for base in bases]
        self.size = action_spec.size
        self.frame_history = max((base.frame_history for base in self.bases), default=0)

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes in all of them; see `Policy.reset`."""
        for base in self.bases:
            base.reset(rows, seeds, instructions)

    def draw(self, observation: Observation, horizon: int) -> Drawn:
        """A sequence of each policy for every row; a fault of one is a fault of that row alone."""
        if not self.bases:
            return Drawn(None, {})
        rows = len(observation)
        sequences = np.zeros((rows, len(self.bases), horizon, self.size), np.float32)
        faults: dict[int, ChunkError] = {}
        for number, (base, conversion) in enumerate(zip(self.bases, self.conversions, strict=True)):
            chunks = read_chunks(base.act(observation), rows, base.action_spec.size)
            for k, chunk in enumerate(chunks):
                if isinstance(chunk, ChunkError):
                    faults[k] = ChunkError(f"the proposals of {type(base).__name__}: {chunk}")
                else:
                    sequences[k, number] = fitted(conversion(chunk), horizon)
        return Drawn(torch.from_numpy(sequences), faults)

    def config(self) -> list[dict[str, Any]]:
        """What `saved_bases` needs beside the weights."""
        return [describe(base) for base in self.bases]

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of all of them."""
        return {
            f"base_{number}.{name}": tensor
            for number, base in enumerate(self.bases)
            for name, tensor in base.weights().items()
        }


def saved_bases(
    described: Sequence[dict[str, Any]], weights: Mapping[str, torch.Tensor]
) -> list[Policy]:
    """The policies behind `Proposals.config` and `Proposals.weights`."""
    bases = []
    for number, one in enumerate(described):
        own = f"base_{number}."
        kept = {k.removeprefix(own): v for k, v in weights.items() if k.startswith(own)}
        bases.append(build(one, kept))
    return bases


def planner_identity(
    policy: Policy,
    model: LatentWorldModel | SemanticWorldModel,
    proposals: Proposals,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What a planning policy's actions depend on, see `Policy.identity`."""
    models = {
        "weights_sha256": dict(model.spec.weights_sha256),
        "denoising_steps": getattr(model, "denoising_steps", None),
    }
    bases = {"bases": [base.identity() for base in proposals.bases]}
    return policy_identity(policy, {**models, **settings, **bases})


def fitted(chunk: np.ndarray, horizon: int) -> np.ndarray:
    """Actions (n, A) cut to a horizon, or continued with their last one."""
    missing = max(0, horizon - len(chunk))
    return np.pad(chunk[:horizon], ((0, missing), (0, 0)), mode="edge")


def plan_seed(seed: int, step: int) -> int:
    """Seed of the plan that a row makes at a step of its episode."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
