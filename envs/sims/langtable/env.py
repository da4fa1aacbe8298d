"""LangTable: a peg pushes coloured blocks over a table, as Gymnasium environment (`LangTable-v0`).

The ground truth of the language-table domain: quasi-static physics in MuJoCo, tasks given in
words, one camera nearly above the table. Import is light; MuJoCo is loaded with the first
environment.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.utils import EzPickle

from wm_gym.choices import check_choice
from wm_gym.envs.sims.langtable.layout import sample_start
from wm_gym.envs.sims.langtable.physics import LangTablePhysics
from wm_gym.envs.sims.langtable.shapes import ALL_OBJECTS, OBJECTS, parse_blocks
from wm_gym.envs.sims.langtable.tasks import (
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
from wm_gym.envs.sims.renderer import parse_frame_size
from wm_gym.envs.sims.simulator import SimulatorEnv
from wm_gym.errors import UserError

ACTION_LIMIT_M = 0.03
MIXED = "mixed"


class LangTableEnv(SimulatorEnv, EzPickle):
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
        blocks: `standard`, `ood` (only the six blocks that standard data lack), `mixed` (every
            reset draws eight of all twenty; instructions cannot be given then) or names separated
            by commas.
        frame_size: `"HxW"`, one number for a square, or (H, W). The frame's shorter side always
            shows the same 0.515 m of table.
        obs: `pixels` or `state`; with `state` no GL platform is needed unless `render` is called.
        horizon: steps until truncation.
        terminate_on_success: False goes on after a success, for data with full-length episodes.
        render_mode: `rgb_array`; `render` works with None, too.
    """

    name: ClassVar[str] = "LangTable"
    tasks: ClassVar[tuple[str, ...]] = TASKS
    action_meaning: ClassVar[str] = f"the peg's way in x and y, metres within ±{ACTION_LIMIT_M}"
    control_hz: ClassVar[int] = 10

    def __init__(
        self,
        task: str = "push",
        blocks: str = "standard",
        frame_size: str | int | tuple[int, int] = "180x320",
        obs: str = "pixels",
        horizon: int = 120,
        terminate_on_success: bool = True,
        render_mode: str | None = "rgb_array",
    ) -> None:
        EzPickle.__init__(
            self, task, blocks, frame_size, obs, horizon, terminate_on_success, render_mode
        )
        check_choice("task", task, (*TASKS, "any"))
        self._mixed = blocks == MIXED
        self._size = parse_frame_size(frame_size)
        self._lay(OBJECTS if self._mixed else parse_blocks(blocks))
        self.goal: Goal = goals(task, self.objects)[0]
        super().__init__(
            task=task,
            frame_size=frame_size,
            cameras=("top",),
            obs=obs,
            horizon=horizon,
            terminate_on_success=terminate_on_success,
            render_mode=render_mode,
            action_low=[-ACTION_LIMIT_M] * 2,
            action_high=[ACTION_LIMIT_M] * 2,
            state_size=2 + 3 * len(self.objects),
        )

    def _lay(self, objects: tuple[str, ...]) -> None:
        """Puts blocks on the table."""
        self.objects = objects
        self._physics = LangTablePhysics(objects, *self._size)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode, see `SimulatorEnv.reset`.

        Raises:
            ValueError: for an instruction with mixed blocks, which are drawn anew; and as there.
        """
        if self._mixed and (options or {}).get("instruction") is not None:
            raise UserError(
                f"instruction {(options or {})['instruction']!r} with blocks={MIXED!r}: the blocks "
                "are drawn anew at every reset; give a task, or name the blocks"
            )
        return super().reset(seed=seed, options=options)

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

    def _is_success(self) -> bool:
        return is_success(self.privileged_state(), self.goal, self.objects)

    def _named_state(self) -> dict[str, np.ndarray]:
        state = self.privileged_state()
        peg, poses = split_state(state)
        return {
            "peg_m": peg,
            "blocks": poses,
            "contacts": peg_gaps(state, self.objects) < CONTACT_GAP_M,
        }

    def _parse_instruction(self, instruction: str) -> Goal:
        return parse_instruction(instruction, self.objects)

    def _draw_goal(self, task: str) -> Goal:
        if self._mixed:
            drawn = self.np_random.choice(len(ALL_OBJECTS), len(OBJECTS), replace=False)
            self.close()  # the renderer is the old table's
            self._lay(tuple(ALL_OBJECTS[i] for i in sorted(drawn)))
        choices = goals(task, self.objects)
        return choices[int(self.np_random.integers(len(choices)))]

    def _draw_start(self) -> None:
        self._physics.place(sample_start(self.goal, self.objects, self.np_random))

    def _move(self, action: np.ndarray) -> None:
        self._physics.move(action)

    def _physical_state(self) -> dict[str, np.ndarray | str]:
        return {"positions": self.privileged_state(), "blocks": ", ".join(self.objects)}

    def _goal_of_state(self, state: dict[str, Any]) -> Goal:
        blocks = parse_blocks(str(state["blocks"]))
        if self._mixed and len(blocks) == len(OBJECTS) and blocks != self.objects:
            self.close()
            self._lay(blocks)
        if blocks != self.objects:
            raise UserError(
                f"state holds the blocks {', '.join(blocks)}; this environment has "
                f"{', '.join(self.objects)}. Make one with blocks={str(state['blocks'])!r}."
            )
        positions = np.asarray(state["positions"], dtype=np.float64)
        if positions.shape != (2 + 3 * len(blocks),) or not np.isfinite(positions).all():
            raise UserError(
                f"state['positions'] has shape {positions.shape} and must be "
                f"{(2 + 3 * len(blocks),)} finite numbers; take it from get_state()."
            )
        return parse_instruction(str(state["instruction"]), self.objects)

    def _restore(self, state: dict[str, Any]) -> None:
        self._physics.place(np.asarray(state["positions"], dtype=np.float64))

    def _scene(self) -> tuple[Any, Any]:
        return self._physics.model, self._physics.data
