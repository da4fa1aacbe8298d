"""LangTable's tasks of two blocks with questions that also say which way to move the first.

Table 5 of arXiv:2510.19818 asks how things should stand: the peg at a block, the blocks apart. Once
that holds, every plan is as good as any other, however near the blocks still are. These tasks are
ours. They ask in addition for a move of the first block, away from the other or towards it, in one
of four directions, and for the peg on the side that it can be pushed from. Which direction, the
model says itself when it is asked where the blocks stand to each other now.
"""

from __future__ import annotations

from dataclasses import replace

from wm_gym.semantic.tasks import (
    LANGTABLE_TASKS,
    MULTI_STEP_PAIRS,
    DesiredAnswer,
    SemanticTask,
    Way,
    langtable_task,
    sequence,
)

_BEYOND = {"up": "above", "down": "below", "left": "to the left of", "right": "to the right of"}
_OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}
_MOVE_WEIGHT, _SIDE_WEIGHT = 0.4, 0.2


def _directed(task: SemanticTask, away: bool) -> SemanticTask:
    """The task with a way for every direction.

    Args:
        task: as Table 5 states it, of one step.
        away: whether the first block is to move away from the other.
    """
    (step,) = task.subgoals
    near, far = ("{second}", "{first}") if away else ("{first}", "{second}")
    rest = 1 - _MOVE_WEIGHT - _SIDE_WEIGHT
    standing = tuple(replace(a, weight=rest * a.weight) for a in step.answers)
    ways = []
    for direction, beyond in _BEYOND.items():
        behind = _BEYOND[_OPPOSITE[direction]]
        now = DesiredAnswer(f"Is the {far} {beyond} the {near}?", "yes")
        move = DesiredAnswer(f"Did the {{first}} move {direction}?", "yes", _MOVE_WEIGHT)
        side = DesiredAnswer(f"Is the peg {behind} the {{first}}?", "yes", _SIDE_WEIGHT)
        ways.append(Way((now,), (move, side)))
    return replace(task, subgoals=(replace(step, answers=standing, ways=tuple(ways)),))


DIRECTED_TASKS: dict[str, SemanticTask] = {
    "separate": _directed(LANGTABLE_TASKS["separate"], away=True),
    "push": _directed(LANGTABLE_TASKS["push"], away=False),
}
"""By the names that instructions have; {first} is the block that moves."""

DIRECTED_MULTI_STEP: dict[str, SemanticTask] = {
    name: sequence(name, *(DIRECTED_TASKS["push"].named(*blocks) for blocks in pairs))
    for name, pairs in MULTI_STEP_PAIRS.items()
}
"""The multi-step tasks with such pushes."""


def directed_task(name: str, objects: tuple[str, ...] = ()) -> SemanticTask:
    """A task of LangTable, with directions if it is one of two blocks.

    Args:
        name: `reach`, `separate` or `push`.
        objects: the blocks it is about: one, or two.

    Raises:
        TaskError: if there is no such task or it is about another number of blocks.
    """
    plain = langtable_task(name, objects)
    return DIRECTED_TASKS[name].named(*objects) if name in DIRECTED_TASKS else plain
