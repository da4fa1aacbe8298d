"""Many imagined episodes in one batch: a world model behind `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from wm_gym.envs.actions import check_batch
from wm_gym.envs.client_arguments import whole_fps, whole_seed
from wm_gym.envs.engine import Engine
from wm_gym.envs.episode_copies import EpisodeCopies
from wm_gym.envs.episode_starts import read_options
from wm_gym.envs.horizon import one_horizon
from wm_gym.envs.settings import Settings, check_names, check_render_mode
from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.spec import WorldModelSpec
    from wm_gym.world_model import LatentWorldModel


class WorldModelVectorEnv(EpisodeCopies, VectorEnv):
    """B rows of one world model, advanced in one batch.

    Row i behaves like `WorldModelEnv` reset with row i's seed, whatever B is and whatever its
    neighbours do. It truncates at the horizon by itself, as `make_vec` adds no TimeLimit. An action
    that is NaN, or in a list has a wrong shape, ends (truncates) only its row, with
    `info["error"]`; the row's last observation is the one before that action. A batch in which no
    row has the right shape raises.

    Example:
        >>> import gymnasium, wm_gym
        >>> envs = gymnasium.make_vec("WM-LangTable-VAE-v0", num_envs=4)
        >>> observations, infos = envs.reset(seed=0)
        >>> actions = envs.action_space.sample()
        >>> observations, rewards, terminations, truncations, infos = envs.step(actions)
        >>> picture = envs.render_grid()

    Args:
        num_envs: rows B.
        env_id: registered id, which says what "embedded" means.
        autoreset_mode: "NextStep", "SameStep" (the ended episode's last observation and info are in
            `infos["final_obs"]` and `infos["final_info"]`) or "Disabled" (reset with
            `options={"reset_mask": mask}`).
        render_mode: "rgb_array".
        model: an already loaded model instead of `checkpoint`.
        max_episode_steps: Gymnasium's word for `horizon`; give one of them.
        **settings: the other arguments of `WorldModelEnv`.

    Raises:
        CheckpointError: if the checkpoint is not there, naming the ways to get one.
        TypeError: if there is no such argument.
        ValueError: if an argument does not fit the card.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        env_id: str = "WM-LangTable-VAE-v0",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = "rgb_array",
        model: LatentWorldModel | None = None,
        max_episode_steps: int | None = None,
        **settings: Any,
    ) -> None:
        self._assemble(
            num_envs,
            lambda rows: Engine(rows, _settings(env_id, max_episode_steps, settings), model),
            autoreset_mode,
            render_mode,
            model,
        )

    def _assemble(
        self,
        num_envs: int,
        make_engine: Callable[[int], Engine],
        autoreset_mode: str | AutoresetMode,
        render_mode: str | None,
        model: Any,
    ) -> None:
        """Check the arguments and put the environment around an engine of that many rows."""
        whole = isinstance(num_envs, int | np.integer) and not isinstance(num_envs, bool)
        if not whole or num_envs < 1:
            raise UserError(f"num_envs={num_envs!r}; expected a whole number of at least 1")
        check_render_mode(render_mode)
        self.num_envs = int(num_envs)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.engine, self.given_model = make_engine(self.num_envs), model
        self.render_mode = render_mode
        self.single_observation_space = self.engine.observation_space
        self.single_action_space = self.engine.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {
            **type(self).metadata,
            "render_fps": whole_fps(self.card.action.control_hz),
            "autoreset_mode": self.autoreset_mode,
        }
        self._generators = [seeding.np_random() for _ in range(num_envs)]
        self._begun_with: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        self._keeps_final_frames = False
        self.final_frames: dict[int, np.ndarray] = {}

    def _row_generators(self) -> list[np.random.Generator]:
        return [generator for generator, _ in self._generators]

    @property
    def instruction(self) -> tuple[str, ...]:
        """What is to be done in every row, in words."""
        return tuple(episode.instruction for episode in self.engine.episodes)

    @property
    def task_description(self) -> tuple[str, ...]:
        """The instructions, under the name that VLA interfaces use."""
        return self.instruction

    @property
    def task(self) -> str:
        """Task that random starts are drawn from, or "any"; of all rows."""
        return self.engine.settings.task

    @property
    def horizon(self) -> int:
        """Steps per episode, of all rows."""
        return self.engine.horizon

    @property
    def _max_episode_steps(self) -> int:
        """The horizon, under the name that LeRobot and Gymnasium's TimeLimit use."""
        return self.engine.horizon

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # pyright: ignore
        """The generator of every row, as of Gymnasium's SyncVectorEnv."""
        return tuple(self._row_generators())

    @property
    def np_random_seed(self) -> tuple[int, ...]:
        """The seed of every row's generator, as of Gymnasium's SyncVectorEnv."""
        return tuple(int(seed) for _, seed in self._generators)

    def keep_final_frames(self) -> None:
        """From now on keep in `final_frames`, by row, how an episode looked when it ended.

        With autoreset "SameStep" `render` shows the next episode's start by then.
        """
        self._keeps_final_frames = True

    @property
    def card(self) -> WorldModelSpec:
        """What the model promises: units, rates, training data, measured quality."""
        return self.engine.spec

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: an int s gives row i the seed s + i; or one per row.
            options: as for `WorldModelEnv.reset`; a list has one entry per row, None in rows
                without, anything else is for all rows. `reset_mask`: bool (B,), the rows to
                reset; the others go on.

        Returns:
            Observations and infos.

        Raises:
            ValueError: if an option is unknown or does not fit.
        """
        options = read_options(options)
        rows = self._masked_rows(options.pop("reset_mask", None))
        seed = whole_seed(seed)
        if seed is None or isinstance(seed, int):
            seeds = [None if seed is None else seed + row for row in range(self.num_envs)]
        else:
            seeds = [whole_seed(s) for s in seed]
        per_row = {"seed": seeds, **{k: v for k, v in options.items() if isinstance(v, list)}}
        for key, values in per_row.items():
            if len(values) != self.num_envs:
                raise UserError(f"{key} has {len(values)} entries, expected {self.num_envs}")
        for row in rows:
            if (row_seed := seeds[row]) is not None:
                self._generators[row] = seeding.np_random(row_seed)
        row_options = [
            {
                key: per_row[key][row] if key in per_row else options[key]
                for key in options
                if key not in per_row or per_row[key][row] is not None
            }
            for row in rows
        ]
        infos: dict[str, Any] = {}
        for row, info in zip(rows, self._begin(rows, row_options), strict=True):
            infos = self._add_info(infos, info, row)
        for row, begun_with in zip(rows, row_options, strict=True):
            self._begun_with[row] = begun_with
        return self._observations(), infos

    def _masked_rows(self, mask: Any) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"options['reset_mask'] must be a bool array, got {mask!r}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise UserError(
                f"options['reset_mask'] must have shape ({self.num_envs},) and at least one True, "
                f"got {mask}"
            )
        return np.flatnonzero(mask).tolist()

    def _begin(self, rows: list[int], options: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self.engine.reset(rows, [self._generators[row][0] for row in rows], options)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagine what one action per row leads to.

        Args:
            actions: (B, A), physical units.

        Returns:
            Observations, rewards, terminations, truncations, infos.

        Raises:
            ValueError: if there are not B actions, or none of them has the shape (A,); nothing
                changed.
            ResetNeeded: if there was no reset; with autoreset "Disabled", if an ended row was not
                reset.
        """
        check_batch(actions, self.num_envs, self.card.action)
        ended = np.array([episode.ended for episode in self.engine.episodes])
        waits = self.autoreset_mode == AutoresetMode.NEXT_STEP
        if not self.engine.begun or (ended.any() and not waits):
            raise ResetNeeded(
                f"rows {np.flatnonzero(ended).tolist()} have no episode under way; call reset() "
                "or reset(options={'reset_mask': mask})"
            )
        result = self.engine.step(actions, idle=ended)
        infos: dict[str, Any] = {}
        for row in np.flatnonzero(~ended).tolist():
            if self.autoreset_mode == AutoresetMode.SAME_STEP and self.engine.episodes[row].ended:
                final = {
                    "final_obs": self.engine.observation(row),
                    "final_info": result.infos[row],
                }
                infos = self._add_info(infos, final, row)
            else:
                infos = self._add_info(infos, result.infos[row], row)
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            ended = result.terminated | result.truncated
        self.final_frames = {}
        if ended.any() and self.autoreset_mode != AutoresetMode.DISABLED:
            rows = np.flatnonzero(ended).tolist()
            if self._keeps_final_frames and self.autoreset_mode == AutoresetMode.SAME_STEP:
                frames = self.engine.frames()
                self.final_frames = {row: frames[row].copy() for row in rows}
            # without stored starts an episode begins again from the frames of the last reset
            again = [{} if self.engine.starts.pool else self._begun_with[row] for row in rows]
            for row, info in zip(rows, self._begin(rows, again), strict=True):
                infos = self._add_info(infos, info, row)
        return self._observations(), result.rewards, result.terminated, result.truncated, infos

    def _observations(self) -> Any:
        rows = [self.engine.observation(row) for row in range(self.num_envs)]
        out = create_empty_array(self.single_observation_space, n=self.num_envs, fn=np.zeros)
        return concatenate(self.single_observation_space, rows, out)

    def render(self) -> tuple[np.ndarray, ...]:
        """The newest frame of every row, (H, W, 3) uint8 each, copies.

        Raises:
            ResetNeeded: before the first reset.
        """
        self._check_begun("there are frames")
        return tuple(self.engine.frames().copy())

    def render_grid(self) -> np.ndarray:
        """All rows in one picture, row by row from the top left."""
        from wm_gym.envs.video import tile

        self._check_begun("there are frames")
        return tile(self.engine.frames())

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Attribute, or result of a method, for every row.

        Args:
            name: `instruction`, `task_description`, `start`, `steps` and `np_random_seed` have a
                value per row, any other attribute or method of this environment is the same for
                all (`card`, `horizon`, `render` gives one frame per row).
            *args: of the method.
            **kwargs: of the method.

        Raises:
            AttributeError: if there is no such attribute.
        """
        if name == "render":
            return self.render()
        if name in ("instruction", "task_description", "np_random", "np_random_seed"):
            return getattr(self, name)
        if name in ("start", "steps"):
            return tuple(getattr(episode, name) for episode in self.engine.episodes)
        if name in ("observation_space", "action_space"):
            name = f"single_{name}"
        value = getattr(self if hasattr(self, name) else self.engine, name)
        result = value(*args, **kwargs) if callable(value) else value
        return (result,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute of every row, see `call`."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute: the instruction of every row, or one of the whole environment.

        Args:
            name: `instruction` or `task_description`, or any attribute of this environment.
            values: one value for all rows, or a list or tuple with one per row.

        Raises:
            ResetNeeded: for an instruction before the first reset, which
                `reset(options={"instruction": …})` gives.
            ValueError: if the list has another length, rows differ in what they must share, or the
                value does not fit (a horizon that is none, or not that of a judged episode).
        """
        per_row = list(values) if isinstance(values, (list, tuple)) else [values] * self.num_envs
        if len(per_row) != self.num_envs:
            raise UserError(f"{name}: {len(per_row)} values, expected {self.num_envs}")
        if name in ("instruction", "task_description"):
            self._check_begun(f"{name} can be set")
            self.engine.instruct(per_row)
        elif all(value is per_row[0] or value == per_row[0] for value in per_row):
            if name == "horizon":
                self.engine.set_horizon(per_row[0])
            else:
                setattr(self, name, per_row[0])
        else:
            raise UserError(f"{name} is shared by all rows, give one value")

    def _check_begun(self, what: str) -> None:
        if not self.engine.begun:
            raise ResetNeeded(f"call reset() before {what}: no episode was begun")

    def snapshot(self) -> bytes:
        """Save all rows: context, cache, noise, step counters, random generators."""
        return self.engine.snapshot(self._row_generators())

    def restore(self, content: bytes) -> Any:
        """Resume from `snapshot`; the continuation is the same bit for bit.

        Args:
            content: result of `snapshot` of an environment with as many rows, see
                `WorldModelEnv.restore`.

        Returns:
            The observations at that moment.

        Raises:
            ValueError: if the content is no snapshot, or one of another model or number of rows;
                the episodes are as they were.
        """
        self.engine.restore(content, self._row_generators())
        return self._observations()


def _settings(env_id: str, max_episode_steps: int | None, settings: dict[str, Any]) -> Settings:
    other = ("num_envs", "autoreset_mode", "render_mode", "model", "max_episode_steps")
    check_names(settings, [*(entry.name for entry in fields(Settings)), *other])
    horizon = one_horizon(settings.get("horizon"), max_episode_steps)
    return Settings(env_id, **{**settings, "horizon": horizon})


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise UserError(
            f"autoreset_mode={mode!r}; expected one of {[one.value for one in AutoresetMode]}"
        ) from None
