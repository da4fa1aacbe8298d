"""Cube: an arm with a gripper reaches and stacks cubes, as Gymnasium environment (`Cube-v0`).

The ground truth of the OGBench domain: the package's own scene, arm and physics with one to four
cubes. Import is light; MuJoCo and the package are loaded with the first environment.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.utils import EzPickle

from wm_gym.choices import check_choice
from wm_gym.envs.sims.cube.layout import sample_cubes
from wm_gym.envs.sims.cube.state import CubeState, state_size
from wm_gym.envs.sims.cube.tasks import (
    TASKS,
    TOUCH_GAP_M,
    CubeGoal,
    goals,
    is_success,
    parse_cubes,
    parse_instruction,
    task_distance,
)
from wm_gym.envs.sims.renderer import parse_frame_size
from wm_gym.envs.sims.simulator import SimulatorEnv
from wm_gym.errors import UserError

MOVE_LIMIT_M = 0.05
TURN_LIMIT_RAD = 0.3
BACKGROUNDS = ("grid", "sand", "teal", "plum")


class CubeEnv(SimulatorEnv, EzPickle):
    """OGBench's arm, gripper and cubes; ten actions a second.

    Needs the extra `ogbench`: `pip install 'wm_gym[ogbench]'`.

    Action: float32 (5,): the hand's way along the world's x (towards the camera), y (right in the
    picture) and z (up) within ±0.05 m, its turn about z within ±0.3 rad, and how much farther the
    gripper closes, -1 to 1, 1 being its whole way. OGBench's own actions are these divided by
    their limits. More is clipped and reported in `info["action_clipped"]`. Ways start from where
    the hand is, and end inside OGBench's workspace.
    Observation: the frame, uint8 (H, W, 3), or with `obs="state"` the privileged state of
    `cube_state`, float64, cubes as in `objects`.
    Reward: 1 on success, else 0. reach: a pad of the gripper touches the cube. stack: the cube is
    on top of the other one and no pad touches it. An episode terminates on success and truncates at
    `horizon`.

    `info` carries `instruction`, `task`, `is_success`, `distance` (metres, see
    `cube_tasks.task_distance`), `action_clipped` and `privileged`, a dict of arrays: `hand_m` (3,),
    `hand_yaw_rad` (), `closed` () from 0 to 1, `cubes_m` (n, 3), `cubes_quaternion` (n, 4),
    `contacts` (n, 2) bool, whether the left and the right pad touch the cube, and `pad_gaps_m`
    (n, 2).

    Example:
        >>> env = CubeEnv(task="stack", obs="state")                       # doctest: +SKIP
        >>> options = {"instruction": "stack the blue cube on the yellow cube"}
        >>> observation, info = env.reset(seed=0, options=options)         # doctest: +SKIP

    Args:
        task: `reach`, `stack` or `any`; what a reset draws instructions from.
        cubes: how many, 1 to 4, or names separated by commas of `red cube`, `blue cube`, `green
            cube` and `yellow cube`. One cube cannot be stacked: give task="reach".
        frame_size: `"HxW"`, one number for a square, or (H, W).
        obs: `pixels` or `state`; with `state` no GL platform is needed unless `render` is called.
        horizon: steps until truncation.
        terminate_on_success: False goes on after a success, for data with full-length episodes.
        background: `grid`, OGBench's dark floor, or the unseen `sand`, `teal` and `plum`.
        render_mode: `rgb_array`; `render` works with None, too.

    Raises:
        ImportError: if the package ogbench is not there; the message says what to install.
    """

    name: ClassVar[str] = "Cube"
    tasks: ClassVar[tuple[str, ...]] = TASKS
    action_meaning: ClassVar[str] = (
        f"the hand's way (±{MOVE_LIMIT_M} m along x, y and z) and turn (±{TURN_LIMIT_RAD} rad), "
        "and how much farther the gripper closes (±1)"
    )
    control_hz: ClassVar[int] = 10

    def __init__(
        self,
        task: str = "any",
        cubes: str | int = 4,
        frame_size: str | int | tuple[int, int] = "224x224",
        obs: str = "pixels",
        horizon: int = 200,
        terminate_on_success: bool = True,
        background: str = "grid",
        render_mode: str | None = "rgb_array",
    ) -> None:
        EzPickle.__init__(
            self,
            task,
            cubes,
            frame_size,
            obs,
            horizon,
            terminate_on_success,
            background,
            render_mode,
        )
        self.objects = parse_cubes(cubes)
        check_choice("background", background, BACKGROUNDS)
        check_choice("task", task, (*TASKS, "any"))
        self._check_task(task)
        super().__init__(
            task=task,
            frame_size=frame_size,
            cameras=("front_pixels",),
            obs=obs,
            horizon=horizon,
            terminate_on_success=terminate_on_success,
            render_mode=render_mode,
            action_low=[-MOVE_LIMIT_M] * 3 + [-TURN_LIMIT_RAD, -1.0],
            action_high=[MOVE_LIMIT_M] * 3 + [TURN_LIMIT_RAD, 1.0],
            state_size=state_size(len(self.objects)),
        )
        from wm_gym.envs.sims.cube.physics import CubePhysics

        self._physics = CubePhysics(self.objects, *parse_frame_size(frame_size), background)
        self.goal: CubeGoal = goals(task, self.objects)[0]

    def _check_task(self, task: str) -> None:
        if task == "stack" and len(self.objects) < 2:
            raise UserError(
                f"task='stack' with cubes={', '.join(self.objects)!r}: one cube cannot be stacked; "
                "give at least two cubes, or task='reach'."
            )

    def privileged_state(self) -> np.ndarray:
        """Returns the flat privileged state, float64, see `cube_state`."""
        return self._physics.state.to_array()

    def distance(self, goal: CubeGoal | str | None = None) -> float:
        """Returns the task's distance in metres, see `cube_tasks.task_distance`.

        Args:
            goal: a goal or an instruction; None for the current one.
        """
        if isinstance(goal, str):
            goal = parse_instruction(goal, self.objects)
        return task_distance(self.privileged_state(), goal or self.goal, self.objects)

    def _is_success(self) -> bool:
        return is_success(self.privileged_state(), self.goal, self.objects)

    def _named_state(self) -> dict[str, np.ndarray]:
        state = CubeState.from_array(self.privileged_state())
        return {
            "hand_m": state.hand_m,
            "hand_yaw_rad": state.hand_yaw_rad,
            "closed": state.closed,
            "cubes_m": state.cubes_m,
            "cubes_quaternion": state.cubes_quaternion,
            "contacts": state.pad_gaps_m < TOUCH_GAP_M,
            "pad_gaps_m": state.pad_gaps_m,
        }

    def _parse_instruction(self, instruction: str) -> CubeGoal:
        return parse_instruction(instruction, self.objects)

    def _draw_goal(self, task: str) -> CubeGoal:
        self._check_task(task)
        choices = goals(task, self.objects)
        return choices[int(self.np_random.integers(len(choices)))]

    def _draw_start(self) -> None:
        self._physics.place(sample_cubes(len(self.objects), self.np_random), self.np_random)

    def _move(self, action: np.ndarray) -> None:
        self._physics.move(action)

    def _physical_state(self) -> dict[str, np.ndarray | str]:
        return {"physics": self._physics.get_state(), "cubes": ", ".join(self.objects)}

    def _goal_of_state(self, state: dict[str, Any]) -> CubeGoal:
        cubes = parse_cubes(str(state["cubes"]))
        if cubes != self.objects:
            raise UserError(
                f"state holds the cubes {', '.join(cubes)}; this environment has "
                f"{', '.join(self.objects)}. Make one with cubes={str(state['cubes'])!r}."
            )
        physics = np.asarray(state["physics"], np.float64)
        if physics.shape != (self._physics.state_length,) or not np.isfinite(physics).all():
            raise UserError(
                f"state['physics'] has shape {physics.shape} and must be "
                f"({self._physics.state_length},) finite numbers; take it from get_state() of the "
                "same versions of wm_gym, ogbench and MuJoCo."
            )
        return parse_instruction(str(state["instruction"]), self.objects)

    def _restore(self, state: dict[str, Any]) -> None:
        self._physics.set_state(np.asarray(state["physics"], np.float64))

    def _scene(self) -> tuple[Any, Any]:
        return self._physics.model, self._physics.data
