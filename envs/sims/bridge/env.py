"""BridgeSim: an arm with a gripper puts things in their places (`BridgeSim-v0`).

The ground truth of the Bridge domain: a WidowX-250-like arm over a table in MuJoCo, everything made
of primitives, actions as in the Bridge data. Import is light; MuJoCo is loaded with the first
environment.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.utils import EzPickle

from wm_gym.choices import check_choice
from wm_gym.envs.sims.bridge.layout import sample_start
from wm_gym.envs.sims.bridge.objects import (
    BACKGROUNDS,
    DISTRACTORS,
    TABLES,
    THINGS,
    Appearance,
)
from wm_gym.envs.sims.bridge.state import BridgeState, state_size
from wm_gym.envs.sims.bridge.tasks import (
    PLACES,
    TASKS,
    BridgeGoal,
    is_success,
    parse_instruction,
    task_distance,
)
from wm_gym.envs.sims.simulator import SimulatorEnv
from wm_gym.errors import UserError

CAMERAS = ("shoulder", "side", "wrist")
MOVE_LIMIT_M = 0.05
TURN_LIMIT_RAD = 0.25
LARGEST_IN_STATE = 1e6
"""Positions, speeds and forces stay far below; with more, MuJoCo resets the scene by itself."""


class BridgeSimEnv(SimulatorEnv, EzPickle):
    """Arm, gripper and things on a table; five actions a second.

    Action: float32 (7,): the hand's way along the world's x (away from the robot), y (to its left)
    and z (up) within ±0.05 m, its turn about the same axes within ±0.25 rad, and the gripper, 0
    closed to 1 open. More is clipped and reported in `info["action_clipped"]`. Differential
    inverse kinematics turns an action into joint angles, starting from the last command. Commands
    are cut so that the hand stays over the table and within 0.8 rad of pointing straight down; a
    hand that starts up to a centimetre above that space is brought into it by the first motion.
    Observation: the frame, uint8 (H, W, 3), several cameras side by side, or with `obs="state"` the
    privileged state of `bridge_state`, float64, things as in `objects`.
    Reward: 1 on success, else 0: the thing rests in its place and the hand has let go of it. An
    episode terminates on success and truncates at `horizon`.

    `info` carries `instruction`, `task`, `is_success`, `distance` (metres from the place),
    `action_clipped` and `privileged`, a dict of arrays: `hand_m` (3,), `hand_rotation` (3, 3),
    `opening` (), `things_m` (n, 3), `things_rotation` (n, 3, 3), `touched` (n,) bool.

    Example:
        >>> env = BridgeSimEnv(task="carrot_on_plate", obs="state")
        >>> observation, info = env.reset(seed=0)
        >>> info["instruction"]
        'put the carrot on the plate'
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())

    Args:
        task: `carrot_on_plate`, `spoon_on_towel`, `green_block_on_yellow_block`,
            `eggplant_in_basket` or `any`; what a reset draws instructions from.
        frame_size: `"HxW"`, one number for a square, or (H, W), of one camera. The frame's shorter
            side always shows the same part of the scene.
        cameras: of `shoulder`, `side` and `wrist`, separated by commas.
        obs: `pixels` or `state`; with `state` no GL platform is needed unless `render` is called.
        horizon: steps until truncation.
        terminate_on_success: False goes on after a success, for data with full-length episodes.
        distractors: `none`, `all`, or names separated by commas of `red can`, `blue cup` and
            `pink brush`: things that standard data never show.
        colours: `standard` or `unseen`, of the things; the unseen blocks are red and blue, and the
            instruction says so.
        table: `wood`, or the unseen `slate` and `mint`.
        background: `grey`, or the unseen `brick` and `navy`.
        render_mode: `rgb_array`; `render` works with None, too.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}
    name: ClassVar[str] = "BridgeSim"
    tasks: ClassVar[tuple[str, ...]] = TASKS
    action_meaning: ClassVar[str] = (
        f"the hand's way (±{MOVE_LIMIT_M} m) and turn (±{TURN_LIMIT_RAD} rad) about x, y and z, "
        "and the gripper from 0 closed to 1 open"
    )
    control_hz: ClassVar[int] = 5

    def __init__(
        self,
        task: str = "any",
        frame_size: str | int | tuple[int, int] = "256x256",
        cameras: str = "shoulder",
        obs: str = "pixels",
        horizon: int = 50,
        terminate_on_success: bool = True,
        distractors: str = "none",
        colours: str = "standard",
        table: str = "wood",
        background: str = "grey",
        render_mode: str | None = "rgb_array",
    ) -> None:
        EzPickle.__init__(
            self,
            task,
            frame_size,
            cameras,
            obs,
            horizon,
            terminate_on_success,
            distractors,
            colours,
            table,
            background,
            render_mode,
        )
        from wm_gym.envs.sims.bridge.kinematics import ArmKinematics
        from wm_gym.envs.sims.bridge.physics import BridgePhysics

        check_choice("colours", colours, ("standard", "unseen"))
        check_choice("table", table, tuple(TABLES))
        check_choice("background", background, tuple(BACKGROUNDS))
        self.distractors = parse_distractors(distractors)
        super().__init__(
            task=task,
            frame_size=frame_size,
            cameras=parse_cameras(cameras),
            obs=obs,
            horizon=horizon,
            terminate_on_success=terminate_on_success,
            render_mode=render_mode,
            action_low=[-MOVE_LIMIT_M] * 3 + [-TURN_LIMIT_RAD] * 3 + [0.0],
            action_high=[MOVE_LIMIT_M] * 3 + [TURN_LIMIT_RAD] * 3 + [1.0],
            state_size=state_size(2 + len(self.distractors)),
        )
        unseen = colours == "unseen"
        self._appearance = Appearance(TABLES[table], BACKGROUNDS[background], unseen)
        self._kinematics = ArmKinematics()
        self._scenes: dict[str, BridgePhysics] = {}
        self.goal: BridgeGoal = BridgeGoal(TASKS[0] if task == "any" else task, unseen)

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of what lies on the table, in the state's order: the task's two things first."""
        return (*self.goal.objects, *self.distractors)

    @property
    def _physics(self) -> Any:
        """The scene of the current goal's task; built when it is first needed."""
        from wm_gym.envs.sims.bridge.physics import BridgePhysics

        task = self.goal.task
        if task not in self._scenes:
            self._scenes[task] = BridgePhysics(
                self._things(), *self.frame_size, self._appearance, self._kinematics
            )
            self._draw_start_of(self._scenes[task], np.random.default_rng(0))
        return self._scenes[task]

    def _things(self) -> tuple[Any, ...]:
        place = PLACES[self.goal.task]
        return (
            THINGS[place.first],
            THINGS[place.second],
            *(DISTRACTORS[name] for name in self.distractors),
        )

    def _draw_start_of(self, physics: Any, rng: np.random.Generator) -> None:
        physics.place(*sample_start(self._things(), rng))

    def privileged_state(self) -> np.ndarray:
        """Returns the flat privileged state (8 + 9n,) float64, see `bridge_state`."""
        return self._physics.privileged_state()

    def distance(self, goal: BridgeGoal | str | None = None) -> float:
        """Returns how far the first thing is from its place, in metres.

        Args:
            goal: a goal or an instruction about the things on the table; None for the current one.

        Raises:
            ValueError: if the goal is about other things than those on the table.
        """
        if isinstance(goal, str):
            goal = parse_instruction(goal, self._appearance.unseen_things)
        goal = goal or self.goal
        self._check_objects(goal)
        return task_distance(self.privileged_state(), goal)

    def _is_success(self) -> bool:
        return is_success(self.privileged_state(), self.goal)

    def _named_state(self) -> dict[str, np.ndarray]:
        state = BridgeState.from_array(self.privileged_state())
        return {
            "hand_m": state.hand_m,
            "hand_rotation": state.hand_rotation,
            "opening": np.array(state.opening),
            "things_m": np.stack([thing.position_m for thing in state.things]),
            "things_rotation": np.stack([thing.rotation for thing in state.things]),
            "touched": np.array([thing.touched for thing in state.things]),
        }

    def _check_objects(self, goal: BridgeGoal) -> None:
        if goal.task != self.goal.task:
            raise UserError(
                f"goal {goal.instruction!r}: only {', '.join(self.objects)} are on the table; "
                f"reset with options={{'task': {goal.task!r}}} and without a state first."
            )

    def _parse_instruction(self, instruction: str) -> BridgeGoal:
        return parse_instruction(instruction, self._appearance.unseen_things)

    def _draw_goal(self, task: str) -> BridgeGoal:
        if task == "any":
            task = TASKS[int(self.np_random.integers(len(TASKS)))]
        return BridgeGoal(task, self._appearance.unseen_things)

    def _draw_start(self) -> None:
        self._draw_start_of(self._physics, self.np_random)

    def _move(self, action: np.ndarray) -> None:
        self._physics.move(action)

    def _physical_state(self) -> dict[str, np.ndarray | str]:
        return {
            "physics": self._physics.get_state(),
            "task": self.goal.task,
            "distractors": ", ".join(self.distractors) or "none",
        }

    def _goal_of_state(self, state: dict[str, Any]) -> BridgeGoal:
        check_choice("state['task']", str(state["task"]), TASKS)
        distractors = parse_distractors(str(state["distractors"]))
        if distractors != self.distractors:
            raise UserError(
                f"state holds the distractors {', '.join(distractors) or 'none'}; this environment "
                f"has {', '.join(self.distractors) or 'none'}. Make one with "
                f"distractors={str(state['distractors'])!r}."
            )
        return BridgeGoal(str(state["task"]), self._appearance.unseen_things)

    def _restore(self, state: dict[str, Any]) -> None:
        physics = np.asarray(state["physics"], np.float64)
        sound = physics.shape == (self._physics.state_length,)
        if not sound or not (np.abs(physics) < LARGEST_IN_STATE).all():
            raise UserError(
                f"state['physics'] has shape {physics.shape} and must be "
                f"({self._physics.state_length},) finite numbers below {LARGEST_IN_STATE:g}; take "
                "it from get_state() of the same version of wm_gym."
            )
        self._physics.set_state(physics)

    def _scene(self) -> tuple[Any, Any]:
        return self._physics.model, self._physics.data


def parse_distractors(distractors: str) -> tuple[str, ...]:
    """Returns the names of the distractors, see `BridgeSimEnv`.

    Raises:
        ValueError: if a name is unknown or given twice.
    """
    if distractors in ("none", ""):
        return ()
    if distractors == "all":
        return tuple(DISTRACTORS)
    return _names("distractors", distractors, tuple(DISTRACTORS))


def parse_cameras(cameras: str) -> tuple[str, ...]:
    """Returns the names of the cameras, see `BridgeSimEnv`.

    Raises:
        ValueError: if a name is unknown or given twice.
    """
    return _names("cameras", cameras, CAMERAS)


def _names(keyword: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(" ".join(part.split()) for part in str(text).split(","))
    if not set(names) <= set(known) or len(set(names)) != len(names):
        raise UserError(
            f"{keyword}={text!r}; expected different ones of {', '.join(known)}, separated by "
            "commas."
        )
    return names
