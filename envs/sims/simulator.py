"""What every ground-truth simulator does alike: the Gymnasium contract around a physical scene."""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from typing import Any, ClassVar, Protocol, cast

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from wm_gym.choices import check_choice
from wm_gym.envs.client_arguments import whole_seed, without_marks
from wm_gym.envs.horizon import horizon_of_make
from wm_gym.envs.info import SHARED, make_info
from wm_gym.envs.sims.renderer import SceneRenderer, parse_frame_size
from wm_gym.errors import UserError

_CHANGEABLE = (
    "task",
    "horizon",
    "terminate_on_success",
    "render_mode",
    "spec",
    "_success_at_reset",
)


class SimulatorGoal(Protocol):
    """What is to be done in a simulator."""

    @property
    def task(self) -> str:
        """Name of the task."""
        ...

    @property
    def objects(self) -> tuple[str, ...]:
        """The objects it names."""
        ...

    @property
    def instruction(self) -> str:
        """The goal in words."""
        ...


class SimulatorEnv(gym.Env[np.ndarray, np.ndarray]):
    """Goals in words, privileged state with get and set, frames, success and truncation.

    A subclass builds its scene, then calls this constructor, and offers what is abstract here.

    Args:
        task: one of `tasks`, or `any`; what a reset draws goals from.
        frame_size: `"HxW"`, one number for a square, or (H, W); of one camera.
        cameras: names of the cameras whose views stand side by side in a frame.
        obs: `pixels` or `state`.
        horizon: steps until truncation.
        terminate_on_success: whether a success ends the episode.
        render_mode: None or `rgb_array`; `render` works with both.
        action_low: (A,) physical units.
        action_high: (A,) physical units.
        state_size: length of the privileged state.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    action_meaning: ClassVar[str]
    control_hz: ClassVar[int]
    objects: tuple[str, ...]
    goal: Any

    def __init__(
        self,
        *,
        task: str,
        frame_size: str | int | tuple[int, int],
        cameras: tuple[str, ...],
        obs: str,
        horizon: int,
        terminate_on_success: bool,
        render_mode: str | None,
        action_low: Any,
        action_high: Any,
        state_size: int,
    ) -> None:
        check_choice("task", task, (*self.tasks, "any"))
        check_choice("obs", obs, ("pixels", "state"))
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        if horizon < 1:
            raise UserError(f"horizon={horizon!r}; expected a number of steps of at least 1.")
        self.task = task
        self.frame_size = parse_frame_size(frame_size)
        self.cameras = cameras
        self.obs = obs
        self.horizon = int(horizon_of_make(type(self), int(horizon)) or horizon)
        self.terminate_on_success = bool(terminate_on_success)
        self.render_mode = render_mode
        self._steps = 0
        self._success_at_reset = False
        self._begun = False
        self._renderers: dict[int, SceneRenderer] = {}
        self.action_space = gym.spaces.Box(
            np.asarray(action_low, np.float32), np.asarray(action_high, np.float32)
        )
        if obs == "pixels":
            height, width = self.frame_size
            shape = (height, width * len(cameras), 3)
            self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        else:
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (state_size,), np.float64)

    @abstractmethod
    def privileged_state(self) -> np.ndarray:
        """Returns what the tasks depend on as one flat float64 array."""

    @abstractmethod
    def distance(self, goal: Any = None) -> float:
        """Returns how far the state is from a goal, or the current one, in metres."""

    @abstractmethod
    def _is_success(self) -> bool:
        """Tells whether the present state fulfils the current goal."""

    @abstractmethod
    def _named_state(self) -> dict[str, np.ndarray]:
        """The privileged state as arrays with names, for `info`."""

    @abstractmethod
    def _parse_instruction(self, instruction: str) -> Any:
        """The goal of an instruction; a ValueError says which ones are understood."""

    def _check_objects(self, goal: Any) -> None:
        """Raises a ValueError if a goal is about other objects than those that are there."""

    @abstractmethod
    def _draw_goal(self, task: str) -> Any:
        """A goal of a task or of `any`, drawn from `np_random`."""

    @abstractmethod
    def _draw_start(self) -> None:
        """Puts everything where an episode with the current goal begins, from `np_random`."""

    @abstractmethod
    def _move(self, action: np.ndarray) -> None:
        """Executes an action (A,) within the bounds."""

    @abstractmethod
    def _physical_state(self) -> dict[str, np.ndarray | str]:
        """Everything physical that the future depends on."""

    @abstractmethod
    def _goal_of_state(self, state: dict[str, Any]) -> Any:
        """The goal of a stored state; raises a ValueError if the state does not fit here."""

    @abstractmethod
    def _restore(self, state: dict[str, Any]) -> None:
        """Sets what `_physical_state` returned; the goal is already the state's."""

    @abstractmethod
    def _scene(self) -> tuple[Any, Any]:
        """MuJoCo's model and data of what is to be seen."""

    @property
    def instruction(self) -> str:
        """What is to be done, in words."""
        return self.goal.instruction

    @property
    def _max_episode_steps(self) -> int:
        """The horizon, under the name that LeRobot and Gymnasium's TimeLimit use."""
        return self.horizon

    @property
    def task_description(self) -> str:
        """The instruction, under the name that VLA interfaces use."""
        return self.goal.instruction

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: seeds the draws of goal and start.
            options: `instruction`, what to do in words; or `task`, as in the constructor, for this
                episode; `state`, a result of `get_state` to start from (its goal is kept unless
                `instruction` says otherwise, its step counter is not).

        Returns:
            Observation and info.

        Raises:
            ValueError: if an option or an instruction is unknown or the state does not fit.
        """
        super().reset(seed=whole_seed(seed))
        options = without_marks(options or {})
        unknown = set(options) - {"instruction", "task", "state"}
        if unknown:
            raise UserError(
                f"options {sorted(unknown)} are unknown; expected instruction, task or state."
            )
        task = options.get("task") or self.task
        check_choice("options['task']", task, (*self.tasks, "any"))
        instruction, state = options.get("instruction"), options.get("state")
        if options.get("task") and state is not None:
            raise UserError(
                f"options['task'] is {task!r} beside a state, which has its own goal; leave the "
                "task out, or say with options['instruction'] what to do from that state."
            )
        if options.get("task") and instruction is not None and task != "any":
            named = self._parse_instruction(instruction).task
            if named != task:
                raise UserError(
                    f"options['task'] is {task!r}, but the instruction {instruction!r} is of the "
                    f"task {named!r}; give one of them."
                )
        if state is not None:
            generator = self.np_random.bit_generator.state
            self.set_state(state)
            self.np_random.bit_generator.state = generator
        if instruction is not None:
            goal = self._parse_instruction(instruction)
            if state is not None:
                self._check_objects(goal)
            self.goal = goal
        elif state is None:
            self.goal = self._draw_goal(task)
        if state is None:
            self._draw_start()
        self._steps, self._begun = 0, True
        self._success_at_reset = self._is_success()
        return self._observation(), self._info(clipped=False)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Executes an action; what lies outside the action space is clipped and reported.

        Args:
            action: (A,) physical units.

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            ValueError: if the action has another shape or is not finite.
            ResetNeeded: before the first `reset` or `set_state`.
        """
        self._check_begun("step")
        wanted = np.asarray(action, dtype=np.float64)
        box = self.action_space
        assert isinstance(box, gym.spaces.Box)
        if wanted.shape != box.shape:
            raise UserError(
                f"action has shape {wanted.shape}; expected {box.shape}: {self.action_meaning}. "
                "Pass one action at a time, without a batch axis."
            )
        if not np.isfinite(wanted).all():
            raise UserError(
                f"action is {wanted}; expected finite numbers within {box.low} and {box.high}: "
                f"{self.action_meaning}. Check the policy for a division by zero."
            )
        executed = np.clip(wanted, box.low.astype(np.float64), box.high.astype(np.float64))
        self._move(executed)
        self._steps += 1
        info = self._info(clipped=bool((executed != wanted).any()))
        success = info["is_success"]
        terminated = success and self.terminate_on_success
        truncated = not terminated and self._steps >= self.horizon
        return self._observation(), float(success), terminated, truncated, info

    def render(self) -> np.ndarray:
        """Returns the frame, (H, W times the number of cameras, 3) uint8.

        Raises:
            RuntimeError: if there is no GL platform; the message says what to install.
            ResetNeeded: before the first `reset` or `set_state`.
        """
        self._check_begun("render")
        model, data = self._scene()
        if id(model) not in self._renderers:
            self._renderers[id(model)] = SceneRenderer(model, self.cameras, self.name)
        return self._renderers[id(model)].render(data)

    def _check_begun(self, method: str) -> None:
        if not self._begun:
            raise ResetNeeded(f"call reset() before {method}(): no episode was begun")

    def close(self) -> None:
        """Frees the GL contexts; the environment renders again if asked to."""
        while self._renderers:
            self._renderers.popitem()[1].close()

    def get_state(self) -> dict[str, np.ndarray | str]:
        """Returns everything that the future depends on, as arrays and strings (npz, JSON)."""
        return {
            **self._physical_state(),
            "steps": np.array(self._steps),
            "instruction": self.instruction,
            "generator": json.dumps(self.np_random.bit_generator.state),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes from a state: the continuation is the same bit for bit.

        Args:
            state: a result of `get_state`, or the same as lists and 0-d arrays of text.

        Raises:
            ValueError: if it belongs to other objects or lacks an entry.
        """
        missing = set(self.get_state()) - set(state)
        if missing:
            raise UserError(
                f"state lacks {', '.join(sorted(missing))}; expected a result of get_state()."
            )
        goal, steps = self._goal_of_state(state), int(state["steps"])
        if steps < 0:
            raise UserError(f"state['steps'] is {steps}; expected the steps taken, 0 or more.")
        generator = json.loads(str(state["generator"]))
        type(self.np_random.bit_generator)().state = generator  # refuses what is no state of it
        before, self.goal = self.goal, goal
        try:
            self._restore(state)
        except ValueError:
            self.goal = before
            raise
        self.np_random.bit_generator.state = generator
        self._steps, self._begun = steps, True

    def __getstate__(self) -> dict[str, Any]:
        """Arguments of the constructor, what was changed since, and the episode under way."""
        return {
            **cast(dict[str, Any], super().__getstate__()),  # EzPickle's
            "changed": {name: getattr(self, name) for name in _CHANGEABLE},
            "generator": (self._np_random, self._np_random_seed),
            "episode": self.get_state() if self._begun else None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes the simulator anew and resumes the episode."""
        super().__setstate__(state)  # pyright: ignore[reportAttributeAccessIssue]
        self.__dict__.update(state["changed"])
        self._np_random, self._np_random_seed = copy.deepcopy(state["generator"])
        if state["episode"] is not None:
            self.set_state(state["episode"])

    def _observation(self) -> np.ndarray:
        return self.render() if self.obs == "pixels" else self.privileged_state()

    def _info(self, clipped: bool) -> dict[str, Any]:
        known = make_info(
            SHARED,
            instruction=self.instruction,
            task=self.goal.task,
            is_success=self._is_success(),
            success_at_reset=self._success_at_reset,
            distance=float(self.distance()),
            action_clipped=clipped,
        )
        return {**known, "privileged": self._named_state()}
