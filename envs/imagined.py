"""One imagined episode at a time: a world model behind `gymnasium.Env`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from wm_gym.envs.client_arguments import whole_fps, whole_seed
from wm_gym.envs.engine import Engine
from wm_gym.envs.episode_copies import EpisodeCopies
from wm_gym.envs.episode_starts import read_options
from wm_gym.envs.horizon import horizon_of_make
from wm_gym.envs.settings import Settings, check_names, check_render_mode

if TYPE_CHECKING:
    from wm_gym.spec import WorldModelSpec
    from wm_gym.world_model import LatentWorldModel


class WorldModelEnv(EpisodeCopies, gymnasium.Env):
    """A world model as environment: every frame after the first is imagined.

    Action: float32 (A,) in the physical units of the card; more than its bounds is clipped and
    reported in `info["action_clipped"]`. Observation: see `obs`. Reward: see `reward`. An episode
    terminates on success and truncates at its horizon; one that is judged at its horizon
    terminates there.

    `info` carries `instruction`, `is_success`, `action_clipped`, `surprise` (how undecided the
    model was about the step, see `Rollout`; it compares denoising steps, so there is none with
    `denoising_steps=1`), `success_probability`, with `reward="distance"` also
    `distance` in metres, after a reset `start` (name of the stored start), and in the last step
    `judge`: a dict of `score`, `rationale` and `name`. With `reward="none"` nobody judges, and
    `is_success` is always False. `env.unwrapped.card` says what the model is and promises.

    Example:
        >>> import gymnasium, wm_gym
        >>> env = gymnasium.make("WM-LangTable-VAE-v0", task="push")
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> frame = env.render()

    Args:
        env_id: registered id, which says what "embedded" means.
        checkpoint: "embedded", a folder, or "hf://org/repo[@revision][/folder]".
        scale: subfolder of a checkpoint that comes in several sizes ("S", "B", "L").
        task: task that random starts are drawn from, or "any".
        reward: "classifier" (1 at success), "distance" (metres of progress, plus 1 at success),
            "judge:<name>" (a judge's score of the whole episode, see `wm_gym.judges.registry`) or
            "none".
        obs: "pixels": uint8 (H, W, 3). "latents": normalised latents, float32 (h, w, D); nothing
            is decoded unless `render` is called. "dict": `pixels`, `goal`, `time_left`.
        cache: "auto", "off", "exact" or "rolling", see `wm_gym.dynamics.rollout`.
        denoising_steps: steps per frame; the card's by default.
        device: torch device.
        dtype: "float32", "bfloat16" in the linear layers of the network (for CPUs), or "autocast",
            bfloat16 in its attention, too (for GPUs). The last two are approximations,
            and latents then differ a little between cache modes and batch sizes.
        compile: translate the network with torch.compile: slower first steps, faster later ones.
        horizon: steps per episode; the card's by default. `max_episode_steps` of `gymnasium.make`
            is another word for it.
        surprise_penalty: what a unit of `info["surprise"]` costs in every step's reward, so that an
            agent stays where the model is sure; needs two denoising steps or more.
        render_mode: "rgb_array".
        model: an already loaded model, used as it is instead of `checkpoint`; not for specs that
            are stored.
        **unknown: refused, naming the arguments there are.

    Raises:
        CheckpointError: if the checkpoint is not there, naming the ways to get one.
        TypeError: if there is no such argument.
        ValueError: if an argument is unknown or does not fit the card.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        env_id: str = "WM-LangTable-VAE-v0",
        checkpoint: str = "embedded",
        scale: str | None = None,
        task: str = "any",
        reward: str = "classifier",
        obs: str = "pixels",
        cache: str = "auto",
        denoising_steps: int | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        compile: bool = False,
        horizon: int | None = None,
        surprise_penalty: float = 0.0,
        render_mode: str | None = "rgb_array",
        model: LatentWorldModel | None = None,
        **unknown: Any,
    ) -> None:
        known = [entry.name for entry in fields(Settings)]
        check_names(unknown, [*known, "render_mode", "model", "max_episode_steps"])
        settings = Settings(
            env_id, checkpoint, scale, task, reward, obs, cache, denoising_steps, device, dtype,
            compile, horizon, surprise_penalty,
        )  # fmt: skip
        check_render_mode(render_mode)
        settings = replace(settings, horizon=horizon_of_make(type(self), horizon))
        self._assemble(Engine(1, settings, model), render_mode, model)

    def _assemble(self, engine: Engine, render_mode: str | None, model: Any) -> None:
        """Put the environment around an engine of one row."""
        self.engine, self.given_model = engine, model
        self.render_mode = render_mode
        self.observation_space = engine.observation_space
        self.action_space = engine.action_space
        self.metadata = {
            **type(self).metadata,
            "render_fps": whole_fps(self.card.action.control_hz),
        }

    def _row_generators(self) -> list[np.random.Generator]:
        return [self.np_random]

    @property
    def card(self) -> WorldModelSpec:
        """What the model promises: units, rates, training data, measured quality."""
        return self.engine.spec

    @property
    def instruction(self) -> str:
        """What is to be done in this episode, in words."""
        return self.engine.episodes[0].instruction

    @instruction.setter
    def instruction(self, instruction: str) -> None:
        """Give the episode under way another instruction.

        Raises:
            InstructionError: if it is not understood.
            ResetNeeded: before the first reset.
        """
        self._check_begun("the instruction can be changed")
        self.engine.instruct([instruction])

    @property
    def task(self) -> str:
        """Task that random starts are drawn from, or "any"."""
        return self.engine.settings.task

    @property
    def horizon(self) -> int:
        """Steps per episode."""
        return self.engine.horizon

    @property
    def _max_episode_steps(self) -> int:
        """The horizon, under the name that LeRobot and Gymnasium's TimeLimit use."""
        return self.engine.horizon

    @property
    def task_description(self) -> str:
        """The instruction, under the name that VLA interfaces use."""
        return self.instruction

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, by default from a stored start state chosen at random.

        Args:
            seed: seeds the choice of the start and the noise.
            options: `start`: name of a stored start state, which the twin knows too. `frames`:
                uint8 (H, W, 3), one picture to begin from, or (n, H, W, 3), a history.
                `actions`: (n - 1, A), what led from frame to frame of a history, clipped to the
                card's bounds; then `info["action_clipped"]` says whether. `instruction`:
                what to do, instead of the start's own; needed with `frames` if a reward judges.

        Returns:
            Observation and info.

        Raises:
            ValueError: if an option is unknown or does not fit the card.
        """
        super().reset(seed=whole_seed(seed))
        (info,) = self.engine.reset([0], [self.np_random], [read_options(options)])
        return self.engine.observation(0), info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Imagine what an action leads to.

        Args:
            action: (A,), physical units.

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            ValueError: if the action has another shape or is not finite; the episode is as it was.
            ResetNeeded: if the episode has ended, or none was begun.
            ImaginationError: if the model produced NaN or infinite latents; reset to go on.
        """
        if self.engine.episodes[0].ended:
            raise ResetNeeded("no episode is under way; call reset() before step()")
        result = self.engine.step([action], strict=True)
        return (
            self.engine.observation(0),
            float(result.rewards[0]),
            bool(result.terminated[0]),
            bool(result.truncated[0]),
            result.infos[0],
        )

    def render(self) -> np.ndarray:
        """The newest frame, (H, W, 3) uint8, a copy.

        Raises:
            ResetNeeded: before the first reset.
        """
        self._check_begun("there is a frame")
        return self.engine.frames()[0].copy()

    def _check_begun(self, what: str) -> None:
        if not self.engine.begun:
            raise ResetNeeded(f"call reset() before {what}: no episode was begun")

    def snapshot(self) -> bytes:
        """Save the episode: context, cache, noise, step counter, random generator.

        See `restore` for how to go on in another environment.
        """
        return self.engine.snapshot([self.np_random])

    def restore(self, content: bytes) -> Any:
        """Resume from `snapshot`; the continuation is the same bit for bit.

        Both belong to this class and not to the wrappers that `gymnasium.make` puts around it. A
        fresh environment has to be reset once before its wrappers let it step; what that reset
        began is forgotten:

        Example:
            >>> import gymnasium, wm_gym
            >>> env = gymnasium.make("WM-LangTable-VAE-v0")
            >>> _ = env.reset(seed=0)
            >>> content = env.unwrapped.snapshot()
            >>> other = gymnasium.make("WM-LangTable-VAE-v0")
            >>> _ = other.reset()
            >>> observation = other.unwrapped.restore(content)
            >>> _ = other.step(other.action_space.sample())

        Args:
            content: result of `snapshot` of an environment with the same checkpoint and number of
                denoising steps. It brings its cache mode along; `obs`, `reward` and `horizon` are
                those of this environment.

        Returns:
            The observation at that moment.

        Raises:
            ValueError: if the content is no snapshot, or one of another model or number of rows;
                the episode is as it was.
        """
        self.engine.restore(content, [self.np_random])
        return self.engine.observation(0)
