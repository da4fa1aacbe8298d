"""A policy at another rate than the environment: an explicit, named resampling of its actions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from wm_gym.errors import UserError
from wm_gym.policies.base import Observation, Policy, build, describe, policy_identity
from wm_gym.policies.chunks import ChunkError, Chunks, join_chunks, read_chunks
from wm_gym.policies.compatibility import IncompatiblePolicyError
from wm_gym.spec import ActionSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from wm_gym.spec import FrameSpec

Resampling = Literal["hold", "repeat", "sum"]


class ResampledPolicy(Policy):
    """Let a policy act in an environment whose step lasts longer or shorter than its own.

    Let an environment step last as long as k policy steps. The methods differ in what becomes of
    the policy's actions:

    - `hold` (k > 1): the first of every k actions drives the environment step, unchanged, and the
      others are dropped. This is how the published Bridge models were trained: one raw action a
      step, whatever the frame skip. With k = 1/m every action is sent m times, unchanged, which is
      exact for absolute commands.
    - `repeat` (k > 1 only): every action is taken k times before the policy looks again: deltas are
      multiplied by k, absolute commands stay.
    - `sum`: the deltas of k consecutive actions are added and the last absolute command is taken,
      which is exact if the policy's chunks are multiples of k. With k = 1/m a delta is divided into
      m equal parts, which is exact, too.

    Args:
        policy: the policy underneath.
        action_spec: the environment's actions, e.g. `env.unwrapped.card.action`; only its rate and
            frame skip are read.
        method: "hold", "repeat" or "sum".
        deltas: names of the components that are displacements; needed where the policy's
            `action_spec.kinds` does not say, except for `hold`.

    Raises:
        IncompatiblePolicyError: if neither step is a multiple of the other, a rate is not known, or
            the policy looks at earlier frames that a slower environment does not show.
        ValueError: if the method is unknown or the kinds of the components are not stated.

    Example:
        >>> policy = ResampledPolicy(openvla, env.unwrapped.card.action, "hold")  # doctest: +SKIP
    """

    kind: ClassVar[str] = "resampled"

    def __init__(
        self,
        policy: Policy,
        action_spec: ActionSpec,
        method: Resampling,
        deltas: Sequence[str] | None = None,
    ) -> None:
        if method not in get_args(Resampling):
            raise UserError(f"method={method!r}; expected one of {list(get_args(Resampling))}")
        ours = policy.action_spec
        self.longer, self.shorter = _ratio(type(policy).__name__, ours, action_spec)
        if method == "repeat" and self.shorter > 1:
            raise UserError(
                f"method='repeat' with an environment that takes {self.shorter} steps to one of "
                "the policy; expected 'hold' (absolute commands) or 'sum' (deltas are divided)"
            )
        if policy.frame_history and self.longer > 1:
            raise IncompatiblePolicyError(
                f"{type(policy).__name__} looks at {policy.frame_history} earlier frames at its "
                f"own rate, and an environment step spans {self.longer} of its steps, so these "
                "frames do not exist: use a policy without frame history, or an environment at "
                "its rate"
            )
        self.policy, self.method = policy, method
        self.deltas = _deltas(ours, deltas, needed=method != "hold")
        scale = self._scale()
        super().__init__(
            replace(
                ours,
                low=tuple((np.asarray(ours.low) * scale).tolist()),
                high=tuple((np.asarray(ours.high) * scale).tolist()),
                control_hz=action_spec.control_hz,
                frame_skip=action_spec.frame_skip,
            ),
            policy.frame_spec,
        )
        self.frame_history = policy.frame_history * self.shorter

    def _scale(self) -> np.ndarray:
        """By how much each component's range grows, (A,)."""
        factor = {"hold": 1.0, "repeat": self.longer, "sum": self.longer / self.shorter}
        return np.where(self.deltas, factor[self.method], 1.0)

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begin episodes; see `Policy.reset`."""
        self.policy.reset(rows, seeds, instructions)

    def act(self, observation: Observation) -> Chunks:
        """Resampled chunks (B, n, A) at the environment's rate.

        A row whose chunk cannot be resampled gets a `ChunkError` that says why.
        """
        history = observation.history
        if history is not None and self.policy.frame_history:
            history = history[:, -self.frame_history :][:, :: self.shorter]
        steps = observation.steps * self.longer // self.shorter
        asked = replace(observation, steps=steps, history=history)
        chunks = read_chunks(self.policy.act(asked), len(observation), self.action_spec.size)
        return join_chunks(
            [chunk if isinstance(chunk, ChunkError) else self._resample(chunk) for chunk in chunks]
        )

    def _resample(self, chunk: np.ndarray) -> np.ndarray | ChunkError:
        """Resample one chunk (n, A) to the environment's rate."""
        if self.shorter > 1 or self.method == "repeat":
            return np.repeat(chunk * self._scale(), self.shorter, axis=0)
        if self.method == "hold":
            return chunk[:: self.longer]
        if len(chunk) % self.longer:
            return ChunkError(
                f"a chunk of {len(chunk)} actions cannot be summed over environment steps of "
                f"{self.longer} policy steps; expected a multiple of {self.longer}: choose the "
                "policy's chunk length accordingly, or method='hold' or 'repeat'"
            )
        grouped = chunk.reshape(-1, self.longer, chunk.shape[1])
        return np.where(self.deltas, grouped.sum(axis=1), grouped[:, -1])

    def config(self) -> dict[str, Any]:
        """The method, the deltas and the description of the policy underneath."""
        names = [
            name for name, delta in zip(self.action_spec.names, self.deltas, strict=True) if delta
        ]
        environment = {
            "control_hz": self.action_spec.control_hz,
            "frame_skip": self.action_spec.frame_skip,
        }
        return {
            "method": self.method,
            "deltas": names,
            "environment": environment,
            "policy": describe(self.policy),
        }

    def identity(self) -> dict[str, Any]:
        """See `Policy.identity`; the policy underneath need not be one that can be saved."""
        settings = {"method": self.method, "deltas": self.deltas.tolist()}
        return policy_identity(self, settings | {"policy": self.policy.identity()})

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the policy underneath."""
        return self.policy.weights()

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> ResampledPolicy:
        """Build the policy underneath, then this one."""
        del frame_spec
        environment = replace(action_spec, **config["environment"])
        return cls(
            build(config["policy"], weights), environment, config["method"], config["deltas"]
        )


def _ratio(name: str, ours: ActionSpec, theirs: ActionSpec) -> tuple[int, int]:
    """Policy steps to one environment step, as (longer, shorter), one of which is 1."""
    if not ours.control_hz or not theirs.control_hz:
        raise IncompatiblePolicyError(
            f"control_hz is {ours.control_hz:g} in {name} and {theirs.control_hz:g} in the "
            "environment, 0 meaning that it is not known: state the rate on both sides "
            "(dataclasses.replace(spec, control_hz=...))"
        )
    ratio = (theirs.frame_skip / theirs.control_hz) * (ours.control_hz / ours.frame_skip)
    longer, shorter = max(1, round(ratio)), max(1, round(1 / ratio))
    if abs(longer / shorter - ratio) > 1e-6 * ratio:
        raise IncompatiblePolicyError(
            f"an environment step lasts {ratio:g} steps of {name} "
            f"({theirs.control_hz:g} Hz with frame_skip {theirs.frame_skip} against "
            f"{ours.control_hz:g} Hz with frame_skip {ours.frame_skip}); expected a whole number "
            "or one over a whole number: use an environment whose rate is a multiple of the "
            "policy's"
        )
    return longer, shorter


def _deltas(spec: ActionSpec, named: Sequence[str] | None, *, needed: bool) -> np.ndarray:
    """Which components are displacements, bool (A,)."""
    if named is not None:
        unknown = sorted(set(named) - set(spec.names))
        if unknown:
            raise UserError(f"deltas={list(named)}: {unknown} are not among {list(spec.names)}")
        return np.array([name in named for name in spec.names])
    if spec.kinds:
        return np.array([kind == "delta" for kind in spec.kinds])
    if needed:
        raise UserError(
            f"the policy's action_spec does not say which of {list(spec.names)} are deltas and "
            "which are absolute commands: pass deltas=[names of the deltas], or state "
            'action_spec.kinds, one of "delta" and "absolute" per component'
        )
    return np.zeros(spec.size, bool)
