"""Tasks as data: questions with desired answers and weights (Table 5 of arXiv:2510.19818).

Wordings and weights are the paper's, with the blocks of a task in the slots. What ends a subgoal is
asked about the present, with no actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from wm_gym.errors import UserError
from wm_gym.semantic.question_types import LANGTABLE_COLOURS, LANGTABLE_SHAPES

Answer = Literal["yes", "no"]


class TaskError(UserError):
    """A task that is unknown or not stated properly."""


@dataclass(frozen=True)
class DesiredAnswer:
    """A question, the answer it should get, and how much that counts.

    Attributes:
        question: in words.
        answer: the desired answer.
        weight: W of Eq. 1, above 0.
    """

    question: str
    answer: Answer
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check answer and weight."""
        if self.answer not in ("yes", "no") or not 0 < self.weight < float("inf"):
            raise TaskError(
                f"{self.question!r}: answer {self.answer!r} must be 'yes' or 'no' and weight "
                f"{self.weight} above 0"
            )
        if not self.question.strip():
            raise TaskError("a question of the task is empty; state it in words")


@dataclass(frozen=True)
class Way:
    """One of several ways to a subgoal.

    Attributes:
        when: what holds now if it is the way to take.
        answers: what planning is to reach on it, besides the subgoal's own answers.
    """

    when: tuple[DesiredAnswer, ...]
    answers: tuple[DesiredAnswer, ...]

    def __post_init__(self) -> None:
        """Check that it can be chosen and adds something."""
        if not self.when or not self.answers:
            raise TaskError("a way to a subgoal needs at least one answer in 'when' and 'answers'")


@dataclass(frozen=True)
class Subgoal:
    """A step of a task.

    Attributes:
        name: what it is.
        answers: what planning is to reach, in the future.
        done: what must hold now for the step to be over.
        ways: if there are any, the one whose `when` is likeliest in the present picture is taken.
    """

    name: str
    answers: tuple[DesiredAnswer, ...]
    done: tuple[DesiredAnswer, ...]
    ways: tuple[Way, ...] = ()

    def __post_init__(self) -> None:
        """Check that there is something to plan for and to end with."""
        if not self.answers or not self.done:
            raise TaskError(
                f"subgoal {self.name!r} needs at least one desired answer and one that says it is "
                "done"
            )

    def reworded(self, change: Callable[[str], str]) -> Subgoal:
        """The same with every question changed."""

        def changed(answers: tuple[DesiredAnswer, ...]) -> tuple[DesiredAnswer, ...]:
            return tuple(replace(a, question=change(a.question)) for a in answers)

        ways = tuple(Way(changed(way.when), changed(way.answers)) for way in self.ways)
        return Subgoal(self.name, changed(self.answers), changed(self.done), ways)


@dataclass(frozen=True)
class SemanticTask:
    """A task: subgoals that follow each other.

    Attributes:
        name: what it is.
        subgoals: at least one.
    """

    name: str
    subgoals: tuple[Subgoal, ...]

    def __post_init__(self) -> None:
        """Check that there is a subgoal."""
        if not self.subgoals:
            raise TaskError(f"task {self.name!r} has no subgoals; it needs at least one")

    def named(self, first: str = "", second: str = "") -> SemanticTask:
        """The task with names in its slots {first} and {second}."""

        def fill(text: str) -> str:
            return text.format(first=first, second=second)

        steps = (replace(s.reworded(fill), name=fill(s.name)) for s in self.subgoals)
        return SemanticTask(fill(self.name), tuple(steps))

    def to_dict(self) -> dict[str, Any]:
        """The task as JSON-ready dictionaries."""
        return asdict(self)


def task_from_dict(content: Mapping[str, Any]) -> SemanticTask:
    """A task from parsed JSON, as `SemanticTask.to_dict` gives it.

    Raises:
        TaskError: naming every missing, unknown or ill-typed field.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    for cls in (DesiredAnswer, Way, Subgoal, SemanticTask):
        setattr(cls, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010
    try:
        return TypeAdapter(SemanticTask).validate_python(content)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise TaskError(f"the task is not stated properly: {'; '.join(faults)}") from error


def _yes(question: str, weight: float = 1.0) -> DesiredAnswer:
    return DesiredAnswer(question, "yes", weight)


_PEG_TOUCHES = "Is the robotic peg touching the {first}?"
_TOUCH = "Is the {first} touching the {second}?"
_NOT_TOUCHING = DesiredAnswer(_TOUCH, "no", 0.4)

LANGTABLE_TASKS: dict[str, SemanticTask] = {
    "reach": SemanticTask(
        "reach the {first}",
        (
            Subgoal(
                "reach the {first}",
                (_yes(_PEG_TOUCHES, 0.8), _yes("Is the robotic peg closer to the {first}?", 0.2)),
                (_yes(_PEG_TOUCHES),),
            ),
        ),
    ),
    # the block that is moved is the paper's centre block, the other the one to avoid
    "separate": SemanticTask(
        "separate the {first} from the {second}",
        (
            Subgoal(
                "separate the {first} from the {second}",
                (_yes(_PEG_TOUCHES, 0.6), _NOT_TOUCHING),
                (_yes(_PEG_TOUCHES), replace(_NOT_TOUCHING, weight=1.0)),
            ),
        ),
    ),
    "push": SemanticTask(
        "push the {first} to the {second}",
        (
            Subgoal(
                "push the {first} to the {second}",
                (
                    _yes(_TOUCH, 0.8),
                    _yes("Are the {first} and the {second} closer together?", 0.2),
                ),
                (_yes(_TOUCH),),
            ),
        ),
    ),
}
"""LangTable's tasks by the names that instructions have; {first} and {second} are blocks."""

MULTI_STEP_PAIRS = {
    "MS1": (("red pentagon", "blue moon"), ("yellow pentagon", "red moon")),
    "MS2": (("yellow star", "blue cube"), ("yellow pentagon", "red moon")),
    "MS3": (("yellow star", "blue cube"), ("red pentagon", "blue moon")),
    "MS4": (("green cube", "blue moon"), ("yellow pentagon", "red moon")),
}


def sequence(name: str, *tasks: SemanticTask) -> SemanticTask:
    """One task whose subgoals are those of several, in this order."""
    return SemanticTask(name, tuple(step for task in tasks for step in task.subgoals))


LANGTABLE_MULTI_STEP: dict[str, SemanticTask] = {
    name: sequence(name, *(LANGTABLE_TASKS["push"].named(*blocks) for blocks in pairs))
    for name, pairs in MULTI_STEP_PAIRS.items()
}
"""The paper's multi-step tasks (Table 3): two pushes each."""


def langtable_task(name: str, objects: tuple[str, ...] = ()) -> SemanticTask:
    """A task of LangTable.

    Args:
        name: `reach`, `separate`, `push`, or `MS1` to `MS4`.
        objects: the blocks it is about: one, two, or none for the multi-step tasks.

    Raises:
        TaskError: if there is no such task, it is about another number of blocks, or a block is
            unknown or named twice.
    """
    if name in LANGTABLE_MULTI_STEP and not objects:
        return LANGTABLE_MULTI_STEP[name]
    if name not in LANGTABLE_TASKS or len(objects) != (1 if name == "reach" else 2):
        raise TaskError(
            f"task {name!r} with objects {objects} is unknown; expected 'reach' with one block, "
            f"'separate' or 'push' with two, or one of {sorted(LANGTABLE_MULTI_STEP)} with none"
        )
    if len(set(objects)) < len(objects):
        raise TaskError(f"task {name!r} is about {objects}, which must be different blocks")
    for block in objects:
        colour, _, shape = block.partition(" ")
        if colour not in LANGTABLE_COLOURS or shape not in LANGTABLE_SHAPES:
            raise TaskError(
                f"block {block!r} is unknown; expected one of {', '.join(LANGTABLE_COLOURS)} with "
                f"one of {', '.join(LANGTABLE_SHAPES)}, e.g. 'red moon'"
            )
    return LANGTABLE_TASKS[name].named(*objects)


_GRASPED = "Is the robot grasping the {first}?"
_GRIPPER_TOUCHES = "Is the robotic gripper touching the {first}?"
_ON_TOP = "Is the {first} on top of the {second}?"

CUBE_TASKS: dict[str, SemanticTask] = {
    "reach": SemanticTask(
        "reach the {first}",
        (
            Subgoal(
                "reach the {first}",
                (
                    _yes(_GRIPPER_TOUCHES, 0.8),
                    _yes("Is the robotic gripper closer to the {first}?", 0.2),
                ),
                (_yes(_GRIPPER_TOUCHES),),
            ),
        ),
    ),
    "stack": SemanticTask(
        "stack the {first} on the {second}",
        (
            Subgoal("grasp the {first}", (_yes(_GRASPED),), (_yes(_GRASPED),)),
            Subgoal(
                "put the {first} on the {second}",
                (_yes(_ON_TOP, 0.6), _yes(_GRASPED, 0.4)),
                (_yes(_ON_TOP),),
            ),
        ),
    ),
}
"""Cube's tasks by the names that instructions have; {first} and {second} are cubes."""


def cube_task(name: str, objects: tuple[str, ...] = ()) -> SemanticTask:
    """A task of Cube.

    Args:
        name: `reach` or `stack`.
        objects: the cubes it is about: one or two.

    Raises:
        TaskError: if there is no such task or it is about another number of cubes.
    """
    if name not in CUBE_TASKS or len(objects) != (1 if name == "reach" else 2):
        raise TaskError(
            f"task {name!r} with objects {objects} is unknown; expected 'reach' with one cube or "
            "'stack' with two"
        )
    return CUBE_TASKS[name].named(*objects)


_TASKS = {"LangTable-v0": langtable_task, "Cube-v0": cube_task}


def semantic_task(simulator: str | None, name: str, objects: tuple[str, ...] = ()) -> SemanticTask:
    """A task of the simulator that a model's card names as its twin.

    Args:
        simulator: its id.
        name: of the task, as in its instructions.
        objects: what it is about.

    Raises:
        TaskError: if the simulator has no tasks stated as questions, or not this one.
    """
    if simulator not in _TASKS:
        raise TaskError(
            f"simulator {simulator!r} has no tasks stated as questions; expected one of "
            f"{list(_TASKS)}, or state a SemanticTask yourself"
        )
    return _TASKS[simulator](name, objects)
