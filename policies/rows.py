"""Many episodes side by side: a world model's vector environment, or simulators stepped in a row.

Both look the same to the runner, so that a policy is evaluated by the same code in a dream and in
its twin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from wm_gym.domains import domain_of
from wm_gym.errors import UserError
from wm_gym.instructions import as_text
from wm_gym.spec import ActionSpec, FrameSpec


@dataclass(frozen=True)
class RowStart:
    """What a row begins with.

    Attributes:
        frame: first frame, uint8 (H, W, 3).
        instruction: what is to be done.
        success: whether the goal holds already; None where the environment does not say.
    """

    frame: np.ndarray
    instruction: str
    success: bool | None = None


@dataclass(frozen=True)
class RowStep:
    """What one step did to a row.

    Attributes:
        frame: newest frame, uint8 (H, W, 3).
        ended: whether the episode terminated or was truncated.
        success: whether the goal holds.
        error: what went wrong in this row, or None.
    """

    frame: np.ndarray
    ended: bool
    success: bool
    error: str | None = None


class EpisodeRows(Protocol):
    """Rows in which episodes are begun and stepped independently.

    Attributes:
        count: number of rows.
        action_spec: the action language they take, or None if it is not known.
        frame_spec: the frames they give, or None if they are not known.
    """

    count: int
    action_spec: ActionSpec | None
    frame_spec: FrameSpec | None

    def reset(
        self, rows: Sequence[int], seeds: Sequence[int], options: Sequence[Mapping[str, Any]]
    ) -> dict[int, RowStart]:
        """Begins episodes; returns what each row begins with."""
        ...

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, RowStep]:
        """Steps the rows that have an action (A,); returns what happened to each."""
        ...


class VectorRows:
    """The rows of a vector environment with autoreset "Disabled" and pixel observations.

    All its rows are stepped every time, idle ones with null actions, so that an episode does not
    depend on how many others are under way.

    Args:
        env: the environment.
        action_spec: its action language; taken from its card by default.
        frame_spec: its frames; taken from its card by default.

    Raises:
        ValueError: if the environment resets its rows by itself.
    """

    def __init__(
        self,
        env: VectorEnv,
        action_spec: ActionSpec | None = None,
        frame_spec: FrameSpec | None = None,
    ) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise UserError(
                f"the vector environment has autoreset_mode={mode!r}; expected 'Disabled', because "
                "the runner decides what each row does next: pass autoreset_mode='Disabled'"
            )
        action, frame = environment_specs(env)
        self.env = env
        self.count = env.num_envs
        self.action_spec = action_spec or action
        self.frame_spec = frame_spec or frame
        self._filler: tuple[int, Mapping[str, Any]] = (0, {})
        self._asleep = set(range(self.count))  # rows whose episode has ended, or never began

    def reset(
        self, rows: Sequence[int], seeds: Sequence[int], options: Sequence[Mapping[str, Any]]
    ) -> dict[int, RowStart]:
        """Begins episodes in some rows; see `EpisodeRows.reset`."""
        begun = dict(zip(rows, zip(seeds, options, strict=True), strict=True))
        self._filler = begun[rows[0]]
        observations, infos = self._reset(begun)
        instructions = infos.get("instruction", [""] * self.count)
        return {
            row: RowStart(observations[row], str(instructions[row]), _holds_at_reset(infos, row))
            for row in rows
        }

    def _reset(self, begun: dict[int, tuple[int, Mapping[str, Any]]]) -> tuple[Any, dict[str, Any]]:
        # a sleeping row repeats some episode, unobserved: the engine steps all rows or none
        begun = {row: self._filler for row in self._asleep} | begun
        self._asleep -= set(begun)
        seeds = [begun[row][0] if row in begun else None for row in range(self.count)]
        names = {name for _, options in begun.values() for name in options}
        options: dict[str, Any] = {
            name: [begun[row][1].get(name) if row in begun else None for row in range(self.count)]
            for name in names
        }
        options["reset_mask"] = np.isin(np.arange(self.count), list(begun))
        return self.env.reset(seed=seeds, options=options)  # pyright: ignore[reportArgumentType]

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, RowStep]:
        """Steps all rows; see `EpisodeRows.step`."""
        if self._asleep:
            self._reset({})
        space = self.env.single_action_space
        assert isinstance(space, gymnasium.spaces.Box)
        batch = np.tile(np.clip(np.zeros(space.shape), space.low, space.high), (self.count, 1))
        batch = batch.astype(np.float32)
        for row, action in actions.items():
            batch[row] = action
        observations, _, terminated, truncated, infos = self.env.step(batch)
        ended = terminated | truncated
        self._asleep |= set(np.flatnonzero(ended).tolist())
        success = infos.get("is_success", np.zeros(self.count, bool))
        errors = infos.get("error", [""] * self.count)
        return {
            row: RowStep(
                observations[row],
                bool(ended[row]),
                bool(success[row]),
                str(errors[row]) if errors[row] else None,
            )
            for row in actions
        }


class SimulatorRows:
    """Simulators stepped one after the other; only the policy is batched.

    Args:
        envs: environments with pixel observations, all alike.
        action_spec: their action language, for the comparison with the policy's.
        frame_spec: their frames.
    """

    def __init__(
        self,
        envs: Sequence[gymnasium.Env],
        action_spec: ActionSpec | None = None,
        frame_spec: FrameSpec | None = None,
    ) -> None:
        if not envs:
            raise UserError("envs is empty; expected at least one simulator")
        self.envs = list(envs)
        self.count = len(self.envs)
        self.action_spec, self.frame_spec = action_spec, frame_spec

    @classmethod
    def make(
        cls,
        make: Callable[[], gymnasium.Env],
        count: int,
        action_spec: ActionSpec | None = None,
        frame_spec: FrameSpec | None = None,
    ) -> SimulatorRows:
        """Makes `count` simulators by calling `make`."""
        return cls([make() for _ in range(count)], action_spec, frame_spec)

    def reset(
        self, rows: Sequence[int], seeds: Sequence[int], options: Sequence[Mapping[str, Any]]
    ) -> dict[int, RowStart]:
        """Begins episodes in some rows; see `EpisodeRows.reset`."""
        begun = {}
        for row, seed, given in zip(rows, seeds, options, strict=True):
            frame, info = self.envs[row].reset(seed=seed, options=dict(given))
            held = _holds_at_reset(info)
            begun[row] = RowStart(np.array(frame), as_text(info.get("instruction")), held)
        return begun

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, RowStep]:
        """Steps the rows that have an action; see `EpisodeRows.step`."""
        done = {}
        for row, action in actions.items():
            frame, _, terminated, truncated, info = self.envs[row].step(action)
            done[row] = RowStep(
                np.array(frame), bool(terminated or truncated), bool(info.get("is_success", False))
            )
        return done

    def close(self) -> None:
        """Closes all simulators."""
        for env in self.envs:
            env.close()


AT_RESET = ("success_at_reset", "is_success")
"""Keys of a reset's info that say whether the goal holds already, the better one first."""


def _holds_at_reset(info: Mapping[str, Any], row: int | None = None) -> bool | None:
    """What the info of a reset says, of one row if it is that of a vector environment."""
    for key in AT_RESET:
        value = info.get(key)
        if value is not None and row is not None:
            known = info.get(f"_{key}")
            value = value[row] if known is None or known[row] else None
        if value is not None:
            return bool(value)
    return None


def environment_specs(
    env: gymnasium.Env | VectorEnv,
) -> tuple[ActionSpec | None, FrameSpec | None]:
    """The action language and the frames of an environment, None where they are not known.

    A world model and its twin have them in their card, a simulator of wm_gym in its domain.

    Args:
        env: the environment, wrapped or not.
    """
    if isinstance(env, VectorEnv):
        card = getattr(env.unwrapped, "card", None)
    else:
        card = env.get_wrapper_attr("card") if env.has_wrapper_attr("card") else None
    if card is not None:
        return getattr(card, "action", None), getattr(card, "frame", None)
    domain = domain_of(env.spec.id) if env.spec is not None else None
    if domain is None:
        return None, None
    shape = env.observation_space.shape
    if shape is None or len(shape) != 3:
        return domain.action, None
    return domain.action, FrameSpec(shape[0], shape[1])


def as_rows(env: EpisodeRows | VectorEnv | gymnasium.Env | Sequence[gymnasium.Env]) -> EpisodeRows:
    """Wraps a vector environment, one simulator or several as rows; rows stay as they are."""
    if isinstance(env, VectorEnv):
        return VectorRows(env)
    if isinstance(env, gymnasium.Env):
        return SimulatorRows([env], *environment_specs(env))
    if isinstance(env, Sequence):
        action, frame = environment_specs(env[0]) if env else (None, None)
        return SimulatorRows(env, action, frame)
    return env
