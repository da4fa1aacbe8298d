"""Tasks of several steps: which subgoal is next, when it is done, and the plan for it (3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from wm_gym.choices import check_choice
from wm_gym.errors import UserError
from wm_gym.planning.plan import ActionBox, Plan
from wm_gym.planning.planner import PlannerConfig, plan
from wm_gym.semantic.tasks import SemanticTask
from wm_gym.semantic.value import TaskValue, ValueConfig, answers_hold
from wm_gym.semantic.world_model import SemanticWorldModel, View


@dataclass(frozen=True)
class SubgoalPlan:
    """What is to be done next, for B problems.

    Attributes:
        plan: the plan for each problem's subgoal.
        subgoals: number of the subgoal planned for, (B,).
        proposals: number of the proposal it was planned from, (B,); -1 if none was chosen.
        done: which subgoals are done by now, a list of bools for each problem.
    """

    plan: Plan
    subgoals: Tensor
    proposals: Tensor
    done: list[list[bool]]


@dataclass(frozen=True)
class SubgoalPlanner:
    """Plans for tasks with subgoals; what is done so far is handed in and out.

    A subgoal is done when the model says so of the present frame, and stays done unless
    `stays_done` is False: then it is open again whenever it does not hold any more. `order` says
    what comes next: `given` takes the first open subgoal, `by_value` the one whose value is highest
    over the proposals, together with the proposal (the paper's multi-step setting, with the samples
    of several behaviour policies as proposals). When all are done, `given` plans for the last one
    again, `by_value` for any.

    Attributes:
        model: the semantic world model.
        planner: which planner, and its settings.
        value: how answers become a value.
        horizon: actions of a plan.
        threshold: probability above which an answer counts as given; the card's by default.
        order: what comes next.
        stays_done: whether a subgoal that held once counts as done for good.
    """

    model: SemanticWorldModel
    planner: PlannerConfig
    value: ValueConfig = field(default_factory=ValueConfig)
    horizon: int = 16
    threshold: float | None = None
    order: Literal["given", "by_value"] = "given"
    stays_done: bool = True

    def __post_init__(self) -> None:
        """Check threshold and order."""
        check_choice("order", self.order, ("given", "by_value"))
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise UserError(
                f"threshold={self.threshold} must be a probability from 0 to below 1, which an "
                "answer has to exceed; None is the card's"
            )

    def begin(self, tasks: Sequence[SemanticTask]) -> list[list[bool]]:
        """Nothing is done yet."""
        return [[False] * len(task.subgoals) for task in tasks]

    def next(
        self,
        frames: Tensor,
        tasks: Sequence[SemanticTask],
        done: Sequence[Sequence[bool]],
        seeds: Sequence[int],
        proposals: Tensor | None = None,
    ) -> SubgoalPlan:
        """Check what is done, choose the next subgoal of every problem and plan for it.

        Args:
            frames: the present, uint8 (B, H, W, 3).
            tasks: task of each problem.
            done: what was done before, as `begin` or the last plan says.
            seeds: one per problem; all randomness is a function of them.
            proposals: where planning may start, (B, P, n, A).

        Raises:
            ValueError: if `by_value` has no proposals to compare.
        """
        if self.order == "by_value" and proposals is None:
            raise UserError(
                "order='by_value' chooses among proposals and there are none; give the behaviour "
                "policies' samples, or use order='given'"
            )
        view = self.model.look(frames)
        known = done if self.stays_done else self.begin(tasks)
        now = [
            advanced(before, holds, self.order)
            for before, holds in zip(known, self._holding(view, tasks), strict=True)
        ]
        box = ActionBox.of(self.model.spec.action)
        start, which = proposals, torch.full((len(tasks),), -1)
        if self.order == "by_value":
            assert proposals is not None
            chosen, which = self._by_value(view, tasks, now, box.clamp(proposals))
            start = proposals[torch.arange(len(tasks)), which][:, None]
        else:
            chosen = torch.tensor([_first_open(row) for row in now])
        steps = [task.subgoals[s] for task, s in zip(tasks, chosen.tolist(), strict=True)]
        value = TaskValue(view, steps, self.value)
        found = plan(value, box, self.horizon, seeds, self.planner, start)
        return SubgoalPlan(found, chosen, which, now)

    def _holding(self, view: View, tasks: Sequence[SemanticTask]) -> list[list[bool]]:
        """Whether each subgoal of each task holds now."""
        columns = []
        for k in range(max(len(task.subgoals) for task in tasks)):
            wanted = [task.subgoals[min(k, len(task.subgoals) - 1)].done for task in tasks]
            columns.append(answers_hold(view, wanted, self.threshold).tolist())
        return [
            [column[row] for column in columns[: len(task.subgoals)]]
            for row, task in enumerate(tasks)
        ]

    def _by_value(
        self,
        view: View,
        tasks: Sequence[SemanticTask],
        done: list[list[bool]],
        proposals: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Open subgoal and proposal with the highest value, (B,) each."""
        most = max(len(task.subgoals) for task in tasks)
        table = torch.full((len(tasks), most, proposals.shape[1]), -torch.inf)
        for k in range(most):
            steps = [task.subgoals[min(k, len(task.subgoals) - 1)] for task in tasks]
            with torch.no_grad():
                found = TaskValue(view, steps, self.value)(proposals).cpu()
            for row, over in enumerate(done):
                if k < len(over) and (not over[k] or all(over)):
                    table[row, k] = found[row]
        best = table.flatten(1).argmax(1)
        return best // proposals.shape[1], best % proposals.shape[1]


def advanced(
    done: Sequence[bool], holds: Sequence[bool], order: Literal["given", "by_value"]
) -> list[bool]:
    """What is done by now.

    Args:
        done: what was done before; it stays done.
        holds: which subgoals hold now.
        order: `given` counts a subgoal only after all before it.
    """
    now = list(done)
    for k, over in enumerate(holds):
        now[k] = now[k] or over
        if order == "given" and not now[k]:
            break
    return now


def _first_open(done: Sequence[bool]) -> int:
    """Number of the first subgoal that is not done, or of the last one."""
    return next((k for k, over in enumerate(done) if not over), len(done) - 1)
