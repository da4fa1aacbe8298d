"""Tasks of Cube: instructions in words, success and distance as functions of the state.

Nothing here needs MuJoCo: everything is computed from the privileged state, see `cube_state`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wm_gym.envs.sims.cube.state import CUBE_HALF_M, CubeState
from wm_gym.errors import UserError
from wm_gym.instructions import InstructionSet, as_text

OBJECTS = ("red cube", "blue cube", "green cube", "yellow cube")
TASK_TEMPLATES: dict[str, str] = {
    "reach": "reach the {first}",
    "stack": "stack the {first} on the {second}",
}
TASKS = tuple(TASK_TEMPLATES)

TOUCH_GAP_M = 0.002  # reach: a pad touches a cube when the gap between them is below this
STACK_RISE_M = 0.03  # stack: the centre is higher than the other one's by more than this
STACK_ASIDE_M = 0.025  # stack: horizontal distance of the centres, at most
STACK_GAP_M = 0.003  # stack: gap between the two cubes, at most


@dataclass(frozen=True)
class CubeGoal:
    """What is to be done.

    Attributes:
        task: one of `TASKS`.
        first: the cube that is reached or stacked.
        second: the cube that it shall stand on; None for reach.
    """

    task: str
    first: str
    second: str | None = None

    def __post_init__(self) -> None:
        """Checks that task and cubes go together."""
        if self.task not in TASKS:
            raise UserError(f"task {self.task!r} is unknown; expected one of {', '.join(TASKS)}.")
        if (self.second is None) != (self.task == "reach") or self.first == self.second:
            raise UserError(
                f"{self.task!r} with first={self.first!r}, second={self.second!r}: expected "
                "'reach' with one cube, 'stack' with two different ones."
            )

    @property
    def instruction(self) -> str:
        """The goal in words."""
        return TASK_TEMPLATES[self.task].format(first=self.first, second=self.second)

    @property
    def objects(self) -> tuple[str, ...]:
        """The cubes it names."""
        return (self.first,) if self.second is None else (self.first, self.second)


def goals(task: str, objects: tuple[str, ...] = OBJECTS) -> list[CubeGoal]:
    """Returns all goals of a task, or of every task for `"any"`, over these cubes."""
    reach = [CubeGoal("reach", first) for first in objects]
    stack = [CubeGoal("stack", a, b) for a in objects for b in objects if a != b]
    return {"reach": reach, "stack": stack, "any": reach + stack}[task]


def parse_instruction(instruction: str, objects: tuple[str, ...] = OBJECTS) -> CubeGoal:
    """Turns an instruction in words into a goal.

    Raises:
        InstructionError: if no template fits or a cube is not on the table.
    """
    goal = InstructionSet(TASK_TEMPLATES, objects).parse(as_text(instruction))
    return CubeGoal(goal.task, *goal.objects)


def parse_cubes(cubes: str | int) -> tuple[str, ...]:
    """Returns the names of the cubes: of a number of them, or names separated by commas.

    Raises:
        ValueError: if it is neither, or a name is given twice.
    """
    text = " ".join(str(cubes).split())
    if text in ("1", "2", "3", "4"):
        return OBJECTS[: int(text)]
    names = tuple(part.strip() for part in text.split(","))
    if not set(names) <= set(OBJECTS) or len(set(names)) != len(names):
        raise UserError(
            f"cubes={cubes!r}; expected a number from 1 to 4, or different ones of "
            f"{', '.join(OBJECTS)}, separated by commas."
        )
    return names


def on_top(state: CubeState) -> np.ndarray:
    """Returns whether the first cube is on top of the second, (..., n, n) bool."""
    step = state.cubes_m[..., :, None, :] - state.cubes_m[..., None, :, :]
    aside = np.linalg.norm(step[..., :2], axis=-1)
    above = (step[..., 2] > STACK_RISE_M) & (aside < STACK_ASIDE_M)
    return above & (state.cube_gaps_m < STACK_GAP_M)


def task_distance(state: np.ndarray, goal: CubeGoal, objects: tuple[str, ...]) -> float:
    """Returns how far a state is from a goal, in metres; it falls as the task is done.

    Args:
        state: privileged state, (S,).
        goal: the goal.
        objects: the cubes' names, in the state's order.

    Returns:
        reach: from the point between the pads to the cube's centre. stack: from the first cube's
        centre to where it belongs, one side above the second one's.
    """
    named = CubeState.from_array(state)
    cube = named.cubes_m[objects.index(goal.first)]
    if goal.second is None:
        return float(np.linalg.norm(cube - named.hand_m))
    place = named.cubes_m[objects.index(goal.second)] + [0.0, 0.0, 2 * CUBE_HALF_M]
    return float(np.linalg.norm(cube - place))


def is_success(state: np.ndarray, goal: CubeGoal, objects: tuple[str, ...]) -> bool:
    """Tells whether a privileged state fulfils a goal.

    reach: a pad touches the cube. stack: the first cube is on top of the second, and no pad touches
    it.
    """
    named = CubeState.from_array(state)
    first = objects.index(goal.first)
    touched = bool((named.pad_gaps_m[first] < TOUCH_GAP_M).any())
    if goal.second is None:
        return touched
    return not touched and bool(on_top(named)[first, objects.index(goal.second)])
