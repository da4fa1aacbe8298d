"""IDQL (arXiv:2304.10573): a diffusion policy proposes chunks, critics choose among them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from wm_gym.dynamics.noise import row_generator
from wm_gym.errors import UserError
from wm_gym.plain_torch import plain_torch
from wm_gym.policies.base import Observation, Policy, PolicyError, build, describe
from wm_gym.policies.chunks import ChunkError, Chunks, join_chunks
from wm_gym.policies.diffusion_policy.policy import DiffusionPolicy
from wm_gym.policies.idql.critics import CHOICES, Choice, Critics, CriticsConfig, choice_weights
from wm_gym.policies.idql.features import critic_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wm_gym.spec import ActionSpec, FrameSpec

CHOICE_STREAM = 12
"""Stream of the choice among samples; see `wm_gym.dynamics.noise`."""


class IDQLPolicy(Policy):
    """Samples chunks of a diffusion policy and carries out one that the critics value.

    Critics see the newest frame and the goal only. Everything random is a function of the row's
    seed and step.

    Args:
        base: the diffusion policy; all actions that it carries out are a chunk.
        critics: trained on chunks of that length.
        mean: subtracted from the critics' features, (F,).
        std: then divided by, (F,).
        samples: chunks that are sampled in every state.
        choice: which of them is carried out, see `choice_weights`.
        temperature: of the choice "softmax".
        expectile: that the critics were trained with, for the choice "expectile".

    Raises:
        ValueError: if a number is out of its range, or critics and policy do not fit.
    """

    kind: ClassVar[str] = "idql"

    def __init__(
        self,
        base: DiffusionPolicy,
        critics: Critics,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        samples: int = 1000,
        choice: Choice = "softmax",
        temperature: float = 0.5,
        expectile: float = 0.8,
    ) -> None:
        super().__init__(base.action_spec, base.frame_spec)
        if samples < 1 or not temperature > 0 or not 0 < expectile < 1:
            raise UserError(
                f"samples={samples}, temperature={temperature}, expectile={expectile}: expected "
                "at least 1, above 0, and between 0 and 1"
            )
        if choice not in CHOICES:
            raise UserError(f"choice={choice!r}: expected one of {list(CHOICES)}")
        size, config = base.execute * base.action_spec.size, critics.config
        if config.actions != size or not len(mean) == len(std) == config.features:
            raise UserError(
                f"the critics take {config.actions} numbers of a chunk and {config.features} "
                f"features; the policy carries out {base.execute} actions, {size} numbers, and "
                f"there are {len(mean)} means and {len(std)} deviations"
            )
        self.base, self.critics = base, critics.eval()
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.choice: Choice = choice
        self.samples, self.temperature, self.expectile = samples, temperature, expectile
        self.frame_history = base.frame_history
        self._seeds: dict[int, int] = {}

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes; see `Policy.reset`."""
        self._seeds.update(zip(map(int, rows), map(int, seeds), strict=True))
        self.base.reset(rows, seeds, instructions)

    @plain_torch()
    @torch.inference_mode()
    def act(self, observation: Observation) -> Chunks:
        """The chosen chunks, (B, n, A); an error in rows whose values are no numbers.

        Raises:
            InstructionError: if an instruction is not understood.
            PolicyError: if the observation holds too few frames.
        """
        chunks = self.base.samples(observation, self.samples)
        q, v = self.values(observation, chunks)
        weights = choice_weights(
            q, v, self.choice, temperature=self.temperature, expectile=self.expectile
        )
        known = (q.isfinite().all(dim=1) & v.isfinite()).tolist()
        chosen: list[np.ndarray | ChunkError] = []
        for k, weight in enumerate(weights.double().numpy()):
            samples, row, step = chunks[k], observation.rows[k], observation.steps[k]
            if not known[k]:
                chosen.append(ChunkError("the critics' values are NaN or infinite"))
                continue
            random = row_generator(self._seeds.get(int(row), 0), int(step), CHOICE_STREAM)
            below = np.searchsorted(weight.cumsum(), random.random() * weight.sum(), side="right")
            chosen.append(samples[min(int(below), self.samples - 1)])
        return join_chunks(chosen)

    @torch.inference_mode()
    def values(
        self, observation: Observation, chunks: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the critics say.

        Args:
            observation: B rows.
            chunks: physical actions, (B, N, n, A).

        Returns:
            Q, the least of the ensemble, (B, N), and V, (B,).
        """
        frames = torch.from_numpy(np.array(observation.frames))
        tasks, objects = self.base.goals(observation.instructions)
        features = critic_features(self.base.network, frames, tasks, objects)
        features = (features - self.mean) / self.std
        flat = torch.from_numpy(self.base.normalise(chunks)).float().flatten(2)
        q = self.critics.q(features.repeat_interleave(flat.shape[1], dim=0), flat.flatten(0, 1))
        return q.min(dim=0).values.unflatten(0, flat.shape[:2]), self.critics.value(features)

    def config(self) -> dict[str, Any]:
        """The policy underneath, the critics' sizes and scales, and how samples are chosen."""
        return {
            "base": describe(self.base),
            "critics": asdict(self.critics.config),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "samples": self.samples,
            "choice": self.choice,
            "temperature": self.temperature,
            "expectile": self.expectile,
        }

    def weights(self) -> dict[str, torch.Tensor]:
        """The parameters of both."""
        critics = {f"critics.{name}": tensor for name, tensor in self.critics.state_dict().items()}
        return critics | {f"base.{name}": tensor for name, tensor in self.base.weights().items()}

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> IDQLPolicy:
        """Builds the policy underneath and the critics."""
        del action_spec, frame_spec  # the policy underneath brings its own
        own = {
            part: {
                name.removeprefix(f"{part}."): tensor
                for name, tensor in weights.items()
                if name.startswith(f"{part}.")
            }
            for part in ("base", "critics")
        }
        base = build(config["base"], own["base"])
        if not isinstance(base, DiffusionPolicy):
            raise PolicyError(f"the policy underneath is a {base.kind!r}; expected a diffusion one")
        critics = Critics(CriticsConfig(**config["critics"]))
        try:
            critics.load_state_dict(own["critics"])
        except RuntimeError as error:
            raise PolicyError(
                f"the weights do not fit critics of {config['critics']}: {error}; get the policy "
                "again"
            ) from error
        rest = {key: config[key] for key in ("mean", "std", "samples", "choice", "temperature")}
        return cls(base, critics, **rest, expectile=config["expectile"])
