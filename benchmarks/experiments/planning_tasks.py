"""What planners with a semantic world model are tried on, beside the paper's figures.

arXiv:2510.19818: sampling from uniform actions (4.2) in LangTable and Cube; in LangTable gradient
ascent from a base policy on five push tasks (Table 6), from uniform actions on three of them
(A.5.2), and the multi-step tasks (Table 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wm_gym.domains import CUBE, LANGTABLE
from wm_gym.errors import UserError
from wm_gym.semantic.tasks import LANGTABLE_MULTI_STEP

Method = Literal["base", "mppi", "gradient", "uniform"]
"""`base`: the base policy alone. `mppi`: from uniform actions. `gradient`: ascent from what the
base proposes. `uniform`: ascent from uniform actions."""


@dataclass(frozen=True)
class PlanningTask:
    """A task of the simulator, and who is tried on it.

    Attributes:
        name: in files and reports.
        group: `reach`, `separate`, `push` or `multi_step`; in Cube `reach` or `stack`.
        methods: who is tried by default.
        instruction: what to do; "" where the seed draws the blocks.
        paper: the paper's success rates, by method.
    """

    name: str
    group: str
    methods: tuple[Method, ...]
    instruction: str = ""
    paper: Mapping[str, float] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Of the reset that begins an episode."""
        return {"instruction": self.instruction} if self.instruction else {"task": self.group}

    @property
    def steps(self) -> int:
        """How many goals it has."""
        known = LANGTABLE_MULTI_STEP.get(self.instruction)
        return 1 if known is None else len(known.subgoals)


_PUSHES = (
    ("green cube", "blue moon", {"base": 0.06, "gradient": 0.78}),
    ("red moon", "green star", {"base": 0.18, "gradient": 0.80, "uniform": 0.50}),
    ("red pentagon", "blue moon", {"base": 0.14, "gradient": 0.80}),
    ("yellow pentagon", "red moon", {"base": 0.18, "gradient": 0.86, "uniform": 0.46}),
    ("yellow star", "blue cube", {"base": 0.16, "gradient": 0.84, "uniform": 0.58}),
)
_MULTI_STEP = {"MS1": 0.50, "MS2": 0.66, "MS3": 0.54, "MS4": 0.54}

_LANGTABLE: tuple[PlanningTask, ...] = (
    PlanningTask("reach", "reach", ("mppi",), paper={"mppi": 1.0}),
    PlanningTask("separate", "separate", ("mppi",), paper={"mppi": 1.0}),
    *(
        PlanningTask(
            f"push_{first}_{second}".replace(" ", "_"),
            "push",
            ("base", "gradient", "uniform"),
            f"push the {first} to the {second}",
            paper,
        )
        for first, second, paper in _PUSHES
    ),
    *(
        PlanningTask(name, "multi_step", ("base", "gradient"), name, {"gradient": rate})
        for name, rate in _MULTI_STEP.items()
    ),
)
_CUBE: tuple[PlanningTask, ...] = (
    PlanningTask("reach", "reach", ("mppi",), paper={"mppi": 0.97}),
    PlanningTask("stack", "stack", ("mppi",)),
)

PLANNING_TASKS: dict[str, tuple[PlanningTask, ...]] = {
    LANGTABLE.twin: _LANGTABLE,
    CUBE.twin: _CUBE,
}
"""All tasks by simulator, in the order in which they are tried."""


def chosen_tasks(simulator: str | None, names: Sequence[str]) -> tuple[PlanningTask, ...]:
    """A simulator's tasks of these names or groups, in their own order; all if there are none.

    Raises:
        ValueError: if the simulator has no such tasks, or one is neither a task nor a group.
    """
    if simulator not in PLANNING_TASKS:
        raise UserError(
            f"simulator {simulator!r} has no tasks to plan; expected a model whose card names one "
            f"of {', '.join(PLANNING_TASKS)} as its twin"
        )
    tasks = PLANNING_TASKS[simulator]
    groups = list(dict.fromkeys(task.group for task in tasks))
    if unknown := sorted(set(names) - {task.name for task in tasks} - set(groups)):
        raise UserError(
            f"tasks {unknown} are unknown in {simulator}; expected groups ({', '.join(groups)}) or "
            f"names ({', '.join(task.name for task in tasks)})"
        )
    return tuple(task for task in tasks if not names or {task.name, task.group} & set(names))
