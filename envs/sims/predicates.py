"""Success by privileged state and instruction, for every simulator that has tasks in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wm_gym.envs.sims.bridge import tasks as bridge_tasks
from wm_gym.envs.sims.cube import tasks as cube_tasks
from wm_gym.envs.sims.langtable import tasks as langtable_tasks
from wm_gym.errors import UserError


def langtable_success(objects: Sequence[str]) -> Callable[[np.ndarray, str], bool]:
    """LangTable's predicate, with these blocks on the table in the order of the state."""
    blocks = tuple(objects)

    def fulfils(state: np.ndarray, instruction: str) -> bool:
        goal = langtable_tasks.parse_instruction(instruction, blocks)
        return langtable_tasks.is_success(state, goal, blocks)

    return fulfils


def bridge_success(objects: Sequence[str]) -> Callable[[np.ndarray, str], bool]:
    """BridgeSim's predicate; a task brings its own things, whatever `objects` are."""
    del objects

    def fulfils(state: np.ndarray, instruction: str) -> bool:
        return bridge_tasks.is_success(state, bridge_tasks.parse_instruction(instruction))

    return fulfils


def cube_success(objects: Sequence[str]) -> Callable[[np.ndarray, str], bool]:
    """Cube's predicate, with these cubes in the order of the state."""
    cubes = tuple(objects)

    def fulfils(state: np.ndarray, instruction: str) -> bool:
        goal = cube_tasks.parse_instruction(instruction, cubes)
        return cube_tasks.is_success(state, goal, cubes)

    return fulfils


_PREDICATES = {
    "LangTable-v0": langtable_success,
    "BridgeSim-v0": bridge_success,
    "Cube-v0": cube_success,
}


def success_predicate(
    simulator: str | None, objects: Sequence[str]
) -> Callable[[np.ndarray, str], bool]:
    """Whether a privileged state (S,) of a simulator fulfils an instruction.

    Args:
        simulator: its id.
        objects: what lies on the table, in the order of the state.

    Raises:
        ValueError: if the simulator has no predicate here.
    """
    if simulator not in _PREDICATES:
        raise UserError(
            f"simulator {simulator!r} has no success predicate; expected one of {list(_PREDICATES)}"
        )
    return _PREDICATES[simulator](objects)
