"""LangTable: a peg pushes coloured blocks over a table, as Gymnasium environment (`LangTable-v0`).

The ground truth of the language-table domain: quasi-static physics in MuJoCo, tasks given in
words, one camera nearly above the table. Import is light; MuJoCo is loaded with the first
environment.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle

from wm_gym.envs.sims.langtable_layout import sample_start
from wm_gym.envs.sims.langtable_physics import LangTablePhysics
from wm_gym.envs.sims.langtable_renderer import LangTableRenderer, parse_frame_size
from wm_gym.envs.sims.langtable_shapes import parse_blocks
from wm_gym.envs.sims.langtable_tasks import (
    CONTACT_GAP_M,
    TASKS,
    Goal,
    goals,
    is_success,
    parse_instruction,
    peg_gaps,
    split_state,
    task_distance,
)

ACTION_LIMIT_M = 0.03


class LangTableEnv(gym.Env, EzPickle):
    """Peg and blocks on a table; the action is the peg's way over the next tenth of a second.

    Action: float32 (2,), x (right in the picture) and y (up) in metres, within ±0.03; more is
    clipped and reported in `info["action_clipped"]`. The peg's centre stays within
    ±0.18 m, the blocks' within ±0.22 m; a peg that would squeeze blocks against that edge stalls.
    Observation: the frame, uint8 (H, W, 3), or with `obs="state"` the privileged state, float64
    `[peg_x, peg_y, x_0, y_0, theta_0, x_1, ...]` in metres and radians, blocks as in `objects`.
    Reward: 1 on success, else 0. An episode terminates on success and truncates at `horizon`.

    `info` carries `instruction`, `task`, `is_success`, `distance` (metres, see `distance`),
    `action_clipped` and `privileged`, a dict of arrays: `peg_m` (2,), `blocks` (n, 3) as x, y
    (m) and theta (rad), `contacts` (n,) bool, whether the peg touches the block.

    Example:
        >>> env = LangTableEnv(task="push", obs="state")
        >>> observation, info = env.reset(seed=0, options={"instruction":
        ...     "push the green cube to the blue moon"})
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())

    Args:
        task: `reach`, `separate`, `push` or `any`; what a reset draws instructions from.
        blocks: `standard`, `ood` (only the six blocks that standard data lack) or names separated
            by commas.
        frame_size: `"HxW"`, one number for a square, or (H, W). The frame's shorter side always
            shows the same 0.515 m of table.
        obs: `pixels` or `state`; with `state` no GL platform is needed unless `render` is called.
        horizon: steps until truncation.
        terminate_on_success: False goes on after a success, for data with full-length episodes.
        render_mode: None or `rgb_array`; `render` works with both.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    control_hz = 10

    def __init__(
        self,
        task: str = "push",
        blocks: str = "standard",
        frame_size: str | int | tuple[int, int] = "180x320",
        obs: str = "pixels",
        horizon: int = 120,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
    ) -> None:
        EzPickle.__init__(
            self, task, blocks, frame_size, obs, horizon, terminate_on_success, render_mode
        )
        _check_choice("task", task, (*TASKS, "any"))
        _check_choice("obs", obs, ("pixels", "state"))
        _check_choice("render_mode", render_mode, (None, "rgb_array"))
        if horizon < 1:
            raise ValueError(f"horizon={horizon!r}; expected a number of steps of at least 1.")
        self.task = task
        self.objects = parse_blocks(blocks)
        self.frame_size = parse_frame_size(frame_size)
        self.obs = obs
        self.horizon = int(horizon)
        self.terminate_on_success = bool(terminate_on_success)
        self.render_mode = render_mode
        self.goal: Goal = goals(task, self.objects)[0]
        self._steps = 0
        self._physics = LangTablePhysics(self.objects, *self.frame_size)
        self._renderer: LangTableRenderer | None = None
        self.action_space = gym.spaces.Box(-ACTION_LIMIT_M, ACTION_LIMIT_M, (2,), np.float32)
        if obs == "pixels":
            self.observation_space = gym.spaces.Box(0, 255, (*self.frame_size, 3), np.uint8)
        else:
            size = 2 + 3 * len(self.objects)
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    @property
    def instruction(self) -> str:
        """What is to be done, in words."""
        return self.goal.instruction

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
            options: `instruction`, a sentence by one of `TASK_TEMPLATES`; or `task`, as in the
                constructor, for this episode; `state`, a result of `get_state` to start from (its
                goal is kept unless `instruction` says otherwise, its step counter is not).

        Returns:
            Observation and info.

        Raises:
            ValueError: if an option or an instruction is unknown or the state does not fit.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        unknown = set(options) - {"instruction", "task", "state"}
        if unknown:
            raise ValueError(
                f"options {sorted(unknown)} are unknown; expected instruction, task or state."
            )
        task = options.get("task") or self.task
        _check_choice("options['task']", task, (*TASKS, "any"))
        instruction, state = options.get("instruction"), options.get("state")
        if state is not None:
            generator = self.np_random.bit_generator.state
            self.set_state(state)
            self.np_random.bit_generator.state = generator
        if instruction is not None:
            self.goal = parse_instruction(instruction, self.objects)
        elif state is None:
            choices = goals(task, self.objects)
            self.goal = choices[int(self.np_random.integers(len(choices)))]
        if state is None:
            self._physics.place(sample_start(self.goal, self.objects, self.np_random))
        self._steps = 0
        return self._observation(), self._info(clipped=False)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves the peg by an action.

        Args:
            action: (2,) metres.

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            ValueError: if the action has another shape or is not finite.
        """
        wanted = np.asarray(action, dtype=np.float64)
        if wanted.shape != (2,):
            raise ValueError(
                f"action has shape {wanted.shape}; expected (2,): the peg's way in x and y, in "
                "metres. Pass one action at a time, without a batch axis."
            )
        if not np.isfinite(wanted).all():
            raise ValueError(
                f"action is {wanted}; expected finite metres within ±{ACTION_LIMIT_M}. Check the "
                "policy for a division by zero; np.zeros(2) keeps the peg where it is."
            )
        limit = float(np.float32(ACTION_LIMIT_M))
        clipped = bool((np.abs(wanted) > limit).any())
        self._physics.move(np.clip(wanted, -limit, limit))
        self._steps += 1
        info = self._info(clipped)
        success = info["is_success"]
        terminated = success and self.terminate_on_success
        truncated = not terminated and self._steps >= self.horizon
        return self._observation(), float(success), terminated, truncated, info

    def render(self) -> np.ndarray:
        """Returns the frame, (H, W, 3) uint8.

        Raises:
            RuntimeError: if there is no GL platform; the message says what to install.
        """
        if self._renderer is None:
            self._renderer = LangTableRenderer(self._physics.model)
        return self._renderer.render(self._physics.data)

    def close(self) -> None:
        """Frees the GL context; the environment renders again if asked to."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def privileged_state(self) -> np.ndarray:
        """Returns `[peg_x, peg_y, x_0, y_0, theta_0, ...]`, (2 + 3n,) float64, m and rad."""
        return self._physics.positions

    def distance(self, goal: Goal | str | None = None) -> float:
        """Returns the task's distance in metres, see `langtable_tasks.task_distance`.

        Args:
            goal: a goal or an instruction; None for the current one.
        """
        if isinstance(goal, str):
            goal = parse_instruction(goal, self.objects)
        return task_distance(self.privileged_state(), goal or self.goal, self.objects)

    def get_state(self) -> dict[str, np.ndarray | str]:
        """Returns everything that the future depends on, as arrays and strings (npz, JSON)."""
        return {
            "positions": self.privileged_state(),
            "steps": np.array(self._steps),
            "instruction": self.instruction,
            "blocks": ", ".join(self.objects),
            "generator": json.dumps(self.np_random.bit_generator.state),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes from a state: the continuation is the same bit for bit.

        Args:
            state: a result of `get_state`, or the same as lists and 0-d arrays of text.

        Raises:
            ValueError: if it belongs to other blocks or lacks an entry.
        """
        missing = {"positions", "steps", "instruction", "blocks", "generator"} - set(state)
        if missing:
            raise ValueError(
                f"state lacks {', '.join(sorted(missing))}; expected a result of get_state()."
            )
        blocks = parse_blocks(str(state["blocks"]))
        if blocks != self.objects:
            raise ValueError(
                f"state holds the blocks {', '.join(blocks)}; this environment has "
                f"{', '.join(self.objects)}. Make one with blocks={str(state['blocks'])!r}."
            )
        positions = np.asarray(state["positions"], dtype=np.float64)
        if positions.shape != (2 + 3 * len(blocks),) or not np.isfinite(positions).all():
            raise ValueError(
                f"state['positions'] has shape {positions.shape} and must be "
                f"{(2 + 3 * len(blocks),)} finite numbers; take it from get_state()."
            )
        goal = parse_instruction(str(state["instruction"]), self.objects)
        self.np_random.bit_generator.state = json.loads(str(state["generator"]))
        self.goal = goal
        self._physics.place(positions)
        self._steps = int(state["steps"])

    def _observation(self) -> np.ndarray:
        return self.render() if self.obs == "pixels" else self.privileged_state()

    def _info(self, clipped: bool) -> dict[str, Any]:
        state = self.privileged_state()
        peg, poses = split_state(state)
        return {
            "instruction": self.instruction,
            "task": self.goal.task,
            "is_success": is_success(state, self.goal, self.objects),
            "distance": task_distance(state, self.goal, self.objects),
            "action_clipped": clipped,
            "privileged": {
                "peg_m": peg,
                "blocks": poses,
                "contacts": peg_gaps(state, self.objects) < CONTACT_GAP_M,
            },
        }


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{name}={value!r} is unknown; expected one of {', '.join(map(repr, choices))}."
        )
