"""The twin of an imagined environment: the simulator that is its ground truth, same spaces."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding

from wm_gym.domains import domain_of
from wm_gym.envs.client_arguments import whole_seed, without_marks
from wm_gym.envs.engine import Engine
from wm_gym.envs.episode_copies import PackedEngine
from wm_gym.envs.episode_starts import NOISE_SEEDS
from wm_gym.envs.observations import dict_observation
from wm_gym.errors import UserError
from wm_gym.spec import WorldModelSpec


class TwinEnv(gymnasium.Wrapper):
    """A simulator that begins where the dream begins and observes what the dream observes.

    Args:
        simulator: the simulator, with frames of the card's size as observations.
        engine: of the imagined environment; with `obs="latents"` its encoder is used.
        model: the model that the imagined environment was given, if it was.
    """

    def __init__(self, simulator: gymnasium.Env, engine: Engine, model: Any = None) -> None:
        super().__init__(simulator)
        self.engine, self.given_model = engine, model
        self.observation_space = engine.observation_space
        self._steps, self._start = 0, ""
        self._generator, _ = seeding.np_random()

    @property
    def card(self) -> WorldModelSpec:
        """The dream's card: actions and frames are the same."""
        return self.engine.spec

    @property
    def instruction(self) -> str:
        """What is to be done in this episode, in words."""
        return self.env.get_wrapper_attr("instruction")

    @property
    def task_description(self) -> str:
        """The instruction, under the name that VLA interfaces use."""
        return self.instruction

    @property
    def task(self) -> str:
        """Task that random starts are drawn from, or "any"."""
        return self.env.get_wrapper_attr("task")

    @property
    def horizon(self) -> int:
        """Steps per episode."""
        return self.env.get_wrapper_attr("horizon")

    @property
    def _max_episode_steps(self) -> int:
        """The horizon, under the name that LeRobot and Gymnasium's TimeLimit use."""
        return self.horizon

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "engine": PackedEngine.pack(self.engine, self.given_model)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "engine": state["engine"].unpack()})

    def __copy__(self) -> TwinEnv:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> TwinEnv:
        memo[id(self.engine)] = self.engine  # it is only read here
        memo[id(self.given_model)] = self.given_model
        other = memo[id(self)] = type(self).__new__(type(self))
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: the dream reset with this seed begins from the same start. Where no starts are
                stored it seeds the simulator's own.
            options: `start`: name of a stored start state. `state`: what the simulator's
                `get_state` returned. `instruction`: what to do, instead of the start's own. `task`:
                no stored start, but one that the simulator draws for this task.

        Returns:
            Observation and info; `info["start"]` names the start state.

        Raises:
            ValueError: if an option is unknown.
        """
        options, seed = without_marks(options or {}), whole_seed(seed)
        starts, start = self.engine.starts, options.pop("start", None)
        if start is not None and "state" in options:
            raise UserError("options has both 'start' and 'state'; give one of them")
        if seed is not None:
            self._generator, _ = seeding.np_random(seed)
        if start is None and not {"state", "task"} & set(options) and starts.pool:
            self._generator.integers(NOISE_SEEDS)  # the dream draws its noise seed here
            drawn = starts.start_index(self._generator, None, options.get("instruction"))
            start = starts.stored.names[drawn]
        if start is not None:
            options["state"] = starts.stored.states[starts.stored.index(start)]
        frame, info = self.env.reset(seed=seed, options=options)
        self._steps, self._start = 0, start or ""
        info["start"] = self._start
        return self._observe(frame, info), info

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the simulator."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        info["start"] = self._start
        return self._observe(frame, info), reward, terminated, truncated, info

    def _observe(self, frame: np.ndarray, info: dict[str, Any]) -> Any:
        engine = self.engine
        if engine.settings.obs == "pixels":
            return frame
        if engine.settings.obs == "latents":
            encoded = engine.model.encode(torch.from_numpy(frame[None].copy()))
            return encoded[0].float().cpu().numpy()
        goal = engine.starts.instructions.parse(info["instruction"])
        return dict_observation(frame, goal, 1 - self._steps / self.horizon, engine.spec)


def make_twin(env: gymnasium.Env | gymnasium.vector.VectorEnv, **kwargs: Any) -> gymnasium.Env:
    """Make the simulator that is an imagined environment's ground truth.

    It has the same spaces, task and horizon. `reset(options={"start": name})` begins where
    `env.reset(options={"start": name})` begins, and so does `reset(seed=…)` after the same calls.

    Args:
        env: a `WorldModelEnv` or `WorldModelVectorEnv`, wrapped or not.
        **kwargs: further arguments of the simulator, e.g. `terminate_on_success=False`.

    Returns:
        One simulator environment.

    Raises:
        TypeError: if `env` is not an imagined environment.
        ValueError: if its card names no simulator, or the spaces differ.

    Example:
        >>> import gymnasium, wm_gym
        >>> env = gymnasium.make("WM-LangTable-VAE-v0")
        >>> twin = wm_gym.make_twin(env)
        >>> _, info = env.reset(seed=0)
        >>> frame, _ = twin.reset(options={"start": info["start"]})
    """
    engine = getattr(env.unwrapped, "engine", None)
    if not isinstance(engine, Engine):
        card = getattr(engine, "spec", None)
        hint = (
            f"; a semantic environment has no frames after the first, so its simulator is not its "
            f"twin: gymnasium.make({card.twin!r}) makes it"
            if card is not None
            else ""
        )
        raise TypeError(
            f"{env} is not an imagined environment; make_twin needs a latent world model{hint}"
        )
    spec = engine.spec
    if spec.twin is None:
        raise UserError(f"the card of {spec.name!r} names no simulator, so it has no twin")
    domain = domain_of(spec.twin)
    keyword = domain.objects_keyword if domain is not None else ""
    simulator = gymnasium.make(
        spec.twin,
        **{
            "task": engine.settings.task,
            **({keyword: ",".join(spec.objects)} if keyword else {}),
            "frame_size": (spec.frame.height, spec.frame.width),
            "horizon": kwargs.get("max_episode_steps", engine.horizon),
            "render_mode": "rgb_array",
            **kwargs,
        },
    )
    twin = TwinEnv(simulator, engine, getattr(env.unwrapped, "given_model", None))
    if twin.action_space != engine.action_space:
        raise UserError(
            f"{spec.twin} takes actions {simulator.action_space}, the card of {spec.name!r} says "
            f"{engine.action_space}; correct the card"
        )
    return twin
