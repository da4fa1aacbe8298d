"""Tasks of LangTable: instructions in words, success and distance as functions of the state.

Nothing here needs MuJoCo: everything is computed from the privileged state, a flat float64 array
`[peg_x, peg_y, x_0, y_0, theta_0, x_1, y_1, theta_1, ...]` in metres and radians, the blocks in
the order of the environment's `objects`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from wm_gym.envs.sims.langtable.shapes import (
    OBJECTS,
    OOD_OBJECTS,
    PEG_RADIUS_M,
    signed_distances,
)
from wm_gym.errors import UserError
from wm_gym.instructions import as_text

__all__ = [
    "CONTACT_GAP_M",
    "OBJECTS",
    "OOD_OBJECTS",
    "PUSH_DISTANCE_M",
    "SEPARATE_DISTANCE_M",
    "TASKS",
    "TASK_TEMPLATES",
    "Goal",
    "distance_of",
    "fulfils",
    "goals",
    "is_success",
    "parse_instruction",
    "peg_gaps",
    "split_state",
    "task_distance",
]

TASK_TEMPLATES: dict[str, str] = {
    "reach": "reach the {first}",
    "separate": "separate the {first} from the {second}",
    "push": "push the {first} to the {second}",
}
TASKS = tuple(TASK_TEMPLATES)

CONTACT_GAP_M = 0.002  # reach: the peg touches a block when the gap between them is below this
SEPARATE_DISTANCE_M = 0.1  # separate: the centres are farther apart than this
PUSH_DISTANCE_M = 0.075  # push: the centres are closer than this (the paper's code uses 0.065)


@dataclass(frozen=True)
class Goal:
    """What is to be done.

    Attributes:
        task: one of `TASKS`.
        first: the block that is reached, moved away or pushed.
        second: the other block; None for reach.
    """

    task: str
    first: str
    second: str | None = None

    def __post_init__(self) -> None:
        """Checks that task and blocks go together."""
        if self.task not in TASKS:
            raise UserError(f"task {self.task!r} is unknown; expected one of {', '.join(TASKS)}.")
        if (self.second is None) != (self.task == "reach") or self.first == self.second:
            raise UserError(
                f"{self.task!r} with first={self.first!r}, second={self.second!r}: expected "
                "'reach' with one block, any other task with two different blocks."
            )

    @property
    def instruction(self) -> str:
        """The goal in words."""
        return TASK_TEMPLATES[self.task].format(first=self.first, second=self.second)

    @property
    def objects(self) -> tuple[str, ...]:
        """The blocks it names."""
        return (self.first,) if self.second is None else (self.first, self.second)


def goals(task: str, objects: tuple[str, ...] = OBJECTS) -> list[Goal]:
    """Returns all goals of a task, or of every task for `"any"`, over these blocks."""
    found = []
    for name in TASKS if task == "any" else (task,):
        if name == "reach":
            found += [Goal(name, first) for first in objects]
        else:
            found += [Goal(name, a, b) for a in objects for b in objects if a != b]
    return found


def parse_instruction(instruction: str, objects: tuple[str, ...] = OBJECTS) -> Goal:
    """Turns an instruction in words into a goal.

    Args:
        instruction: a sentence by one of `TASK_TEMPLATES`; case and spacing do not matter.
        objects: the blocks on the table.

    Returns:
        The goal.

    Raises:
        ValueError: if no template fits or a block is not on the table.
    """
    text = " ".join(as_text(instruction).lower().split()).rstrip(".")
    for task, template in TASK_TEMPLATES.items():
        pattern = template.replace("{first}", "(?P<first>.+)").replace("{second}", "(?P<second>.+)")
        if match := re.fullmatch(pattern, text):
            for name in match.groupdict().values():
                if name not in objects:
                    raise UserError(
                        f"instruction {instruction!r}: {name!r} is not on the table; expected one "
                        f"of {', '.join(objects)} (other blocks: LangTableEnv(blocks=...))."
                    )
            return Goal(task, **match.groupdict())
    known = "; ".join(repr(template) for template in TASK_TEMPLATES.values())
    raise UserError(f"instruction {instruction!r} fits no template; expected one of {known}.")


def split_state(state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits a privileged state (2 + 3n,) into the peg (2,) and the blocks' poses (n, 3)."""
    state = np.asarray(state, dtype=np.float64)
    return state[:2], state[2:].reshape(-1, 3)


def peg_gaps(state: np.ndarray, objects: tuple[str, ...] = OBJECTS) -> np.ndarray:
    """Returns the gap between the peg's surface and each block, (n,) metres."""
    peg, poses = split_state(state)
    return signed_distances(peg, poses, tuple(objects)) - PEG_RADIUS_M


def task_distance(state: np.ndarray, goal: Goal, objects: tuple[str, ...] = OBJECTS) -> float:
    """Returns how far a state is from a goal, in metres; it falls as the task is done.

    Args:
        state: privileged state, (2 + 3n,).
        goal: the goal.
        objects: the n blocks' names, in the state's order.

    Returns:
        reach: gap between peg and block. push: distance of the two centres. separate: what the
        distance of the two centres lacks to `SEPARATE_DISTANCE_M`, 0 when nothing.
    """
    first = objects.index(goal.first)
    peg, poses = split_state(state)
    if goal.second is None:
        one = signed_distances(peg, poses[first : first + 1], (goal.first,))[0]
        return float(distance_of(goal.task, np.asarray(one - PEG_RADIUS_M)))
    between = np.linalg.norm(poses[first, :2] - poses[objects.index(goal.second), :2])
    return float(distance_of(goal.task, np.asarray(between)))


def distance_of(task: str, metres: np.ndarray) -> np.ndarray:
    """Returns a task's distance in metres, see `task_distance`; of any number of states.

    Args:
        task: one of `TASKS`.
        metres: reach: gap between the peg's surface and the block. Else: distance of the centres.
    """
    if task == "push":
        return metres
    return np.maximum(metres if task == "reach" else SEPARATE_DISTANCE_M - metres, 0.0)


def fulfils(task: str, distance_m: np.ndarray) -> np.ndarray:
    """Tells whether a task is done at this distance, see `distance_of`; of any number of states."""
    if task == "separate":
        return distance_m <= 0.0
    return distance_m < (CONTACT_GAP_M if task == "reach" else PUSH_DISTANCE_M)


def is_success(state: np.ndarray, goal: Goal, objects: tuple[str, ...] = OBJECTS) -> bool:
    """Tells whether a privileged state (2 + 3n,) fulfils a goal."""
    return bool(fulfils(goal.task, np.asarray(task_distance(state, goal, objects))))
