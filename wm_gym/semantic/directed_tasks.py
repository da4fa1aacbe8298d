"""LangTable's tasks of two blocks with questions that also say which way to move the first.

Table 5 of arXiv:2510.19818 asks how things should stand: the peg at a block, the blocks apart. Once
that holds, every plan is as good as any other, however near the blocks still are. These tasks are
ours. They ask in addition for a move of the first block, away from the other or towards it, in one
of four directions, and for the peg on the side that it can be pushed from. Which direction, the
model says itself when it is asked where the blocks stand to each other now.
"""

from __future__ import annotations

from dataclasses import replace

from wm_gym.semantic.tasks import LANGTABLE_TASKS, DesiredAnswer, SemanticTask, Subgoal

_BEYOND = {"up": "above", "down": "below", "left": "to the left of", "right": "to the right of"}
_OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}
_MOVE_WEIGHT, _SIDE_WEIGHT = 0.4, 0.2


def _directed(name: str, away: bool) -> SemanticTask:
    """The task with a way for every direction.

    Args:
        name: of the task in Table 5.
        away: whether the first block is to move away from the other.
    """
    task = LANGTABLE_TASKS[name]
    (step,) = task.subgoals
    near, far = ("{second}", "{first}") if away else ("{first}", "{second}")
    rest = 1 - _MOVE_WEIGHT - _SIDE_WEIGHT
    standing = [replace(a, weight=rest * a.weight) for a in step.answers]
    ways = []
    for direction, beyond in _BEYOND.items():
        behind = _BEYOND[_OPPOSITE[direction]]
        moving = [
            DesiredAnswer(f"Did the {{first}} move {direction}?", "yes", _MOVE_WEIGHT),
            DesiredAnswer(f"Is the peg {behind} the {{first}}?", "yes", _SIDE_WEIGHT),
        ]
        now = DesiredAnswer(f"Is the {far} {beyond} the {near}?", "yes")
        ways.append(Subgoal(f"{step.name}: {direction}", (*standing, *moving), step.done, (now,)))
    return SemanticTask(task.name, tuple(ways))


DIRECTED_TASKS: dict[str, SemanticTask] = {
    "separate": _directed("separate", away=True),
    "push": _directed("push", away=False),
}
"""By the names that instructions have; {first} is the block that moves."""
