"""Imagined episodes as a `VecEnv` of Stable-Baselines3, so that its agents learn in the dream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.errors import UserError
from wm_gym.spec import ActionSpec


class ImaginedVecEnv(VecEnv):
    """The rows of a `WorldModelVectorEnv`, reset as they end.

    An action is in ±1, in units of half the card's range: PPO explores with a standard deviation
    of 1 whatever the physical range. `infos[row]` holds what the imagined environment says, then
    `TimeLimit.truncated` and, in the last step of an episode, `terminal_observation`, as SB3 wants
    them; `is_success` is there in every step.

    Example:
        >>> import gymnasium, wm_gym
        >>> from stable_baselines3 import PPO
        >>> dream = gymnasium.make_vec("WM-LangTable-VAE-v0", num_envs=8, obs="latents",
        ...                            reward="distance", autoreset_mode="Disabled")
        >>> envs = ImaginedVecEnv(dream, options={"instruction": "reach the red moon"})
        >>> agent = PPO("MlpPolicy", envs).learn(1000)

    Args:
        envs: the imagined environment, with autoreset "Disabled".
        options: of every reset, an episode's own restart included; see `WorldModelEnv.reset`.
            `set_options` adds to them for the next `reset`.

    Raises:
        TypeError: if `envs` is no `WorldModelVectorEnv`.
        ValueError: if it resets its rows by itself.
    """

    def __init__(
        self, envs: gymnasium.vector.VectorEnv, *, options: Mapping[str, Any] | None = None
    ) -> None:
        imagined = envs.unwrapped
        if not isinstance(imagined, WorldModelVectorEnv):
            raise TypeError(
                f"{envs} is no vector environment of a latent world model; expected "
                "gymnasium.make_vec('WM-…', num_envs=…, autoreset_mode='Disabled')"
            )
        if imagined.autoreset_mode != AutoresetMode.DISABLED:
            raise UserError(
                f"the environment has autoreset_mode={imagined.autoreset_mode.value!r}; expected "
                "'Disabled', because the last observation of an episode must be seen before the "
                "next begins: pass autoreset_mode='Disabled'"
            )
        self.envs = envs
        self.imagined = imagined
        self.reset_options = dict(options or {})
        self.action_spec: ActionSpec = imagined.card.action
        self._actions = np.zeros((imagined.num_envs, self.action_spec.size), np.float32)
        super().__init__(
            imagined.num_envs,
            imagined.single_observation_space,
            spaces.Box(-1, 1, (self.action_spec.size,), np.float32),
        )

    def reset(self) -> VecEnvObs:
        """Begin an episode in every row, with the seeds of `seed` and the options given.

        Raises:
            ValueError: if rows have different options, or one does not fit.
        """
        per_row = [{**self.reset_options, **own} for own in self._options]
        if len({frozenset(options) for options in per_row}) > 1:
            raise UserError(
                f"the rows' options have the keys {[sorted(options) for options in per_row]}; "
                "give every row the same ones"
            )
        options = {name: [own[name] for own in per_row] for name in per_row[0]}
        observations, infos = self.envs.reset(seed=list(self._seeds), options=options)  # pyright: ignore[reportArgumentType]
        self.reset_infos = _rows_of(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Take note of one action per row, (B, A) in ±1; more is clipped.

        Raises:
            ValueError: if they have another shape, or one is NaN or infinite: the agent has
                diverged.
        """
        actions = np.asarray(actions)
        if actions.shape != self._actions.shape:
            raise UserError(
                f"actions have shape {actions.shape}, expected {self._actions.shape}: one per row"
            )
        if not np.isfinite(actions).all():
            bad = actions[~np.isfinite(actions).all(-1)].tolist()
            raise UserError(
                f"the agent gave the actions {bad}: it has diverged; train it with a lower "
                "learning rate"
            )
        self._actions = physical_actions(actions, self.action_spec)

    def step_wait(self) -> VecEnvStepReturn:
        """Imagine what the actions lead to; rows that end begin their next episode."""
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        rows = _rows_of(infos, self.num_envs)
        dones = terminated | truncated
        for row, info in enumerate(rows):
            info["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
            if dones[row]:
                info["terminal_observation"] = _row_of(observations, row)
        if dones.any():
            options = {name: [given] * self.num_envs for name, given in self.reset_options.items()}
            observations, infos = self.envs.reset(options={**options, "reset_mask": dones})
            begun = _rows_of(infos, self.num_envs)
            for row in np.flatnonzero(dones).tolist():
                self.reset_infos[row] = begun[row]
        return observations, rewards.astype(np.float32), dones, rows

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray]:
        """The newest frame of every row, (H, W, 3) uint8 each."""
        return self.imagined.render()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of some rows, see `WorldModelVectorEnv.call`."""
        values = self.imagined.get_attr(attr_name)
        return [values[row] for row in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute; only `instruction` may be set in some rows alone.

        Raises:
            ValueError: if rows would differ in what they share.
        """
        rows = list(self._get_indices(indices))
        if len(rows) == self.num_envs:
            values = [value] * self.num_envs
        else:
            values = list(self.imagined.get_attr(attr_name))
            for row in rows:
                values[row] = value
        self.imagined.set_attr(attr_name, values)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """What a method gives for some rows, see `WorldModelVectorEnv.call`.

        Raises:
            ValueError: for `reset` and `step`, which go through this class.
        """
        if method_name in ("reset", "step"):
            raise UserError(
                f"env_method({method_name!r}) would change rows behind this VecEnv's back; call "
                f"its own {method_name}()"
            )
        values = self.imagined.call(method_name, *method_args, **method_kwargs)
        return [values[row] for row in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None
    ) -> list[bool]:
        """False: there are no single environments to wrap; `VecMonitor` wraps the whole."""
        del wrapper_class
        return [False for _ in self._get_indices(indices)]


def physical_actions(actions: Any, spec: ActionSpec) -> np.ndarray:
    """Actions in units of half the range, (B, A) in ±1, clipped, as physical ones, float32."""
    actions = np.asarray(actions, np.float64)
    low, high = np.asarray(spec.low, np.float64), np.asarray(spec.high, np.float64)
    return (low + (np.clip(actions, -1, 1) + 1) / 2 * (high - low)).astype(np.float32)


def _row_of(observations: Any, row: int) -> Any:
    if isinstance(observations, Mapping):
        return {name: values[row].copy() for name, values in observations.items()}
    return observations[row].copy()


def _rows_of(infos: Mapping[str, Any], rows: int) -> list[dict[str, Any]]:
    """The infos of a Gymnasium vector environment, one dict per row."""
    return [_info_of(infos, row) for row in range(rows)]


def _info_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _names(infos):
        value = infos[name]
        if not infos[f"_{name}"][row]:
            continue
        if isinstance(value, Mapping):
            found[name] = _info_of(value, row)
        else:
            found[name] = value[row].item() if isinstance(value[row], np.generic) else value[row]
    return found


def _names(infos: Mapping[str, Any]) -> Iterable[str]:
    return (name for name in infos if not (name.startswith("_") and name[1:] in infos))
