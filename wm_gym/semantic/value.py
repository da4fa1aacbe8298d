"""The value of action sequences under a task: Eq. 1 and Eq. 2 of arXiv:2510.19818.

V(S, a) = Σ_i W_i · p(A*_i | S, a_1:j, Q_i), summed over the prefixes j = c, 2c, … n of the actions
(Eq. 2), or for the whole sequence only (Eq. 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from wm_gym.choices import check_choice
from wm_gym.errors import UserError
from wm_gym.semantic.attention import Asked
from wm_gym.semantic.tasks import DesiredAnswer, Subgoal
from wm_gym.semantic.world_model import View


@dataclass(frozen=True)
class ValueConfig:
    """How answers become a value."""

    sub_chunk: int = 8
    """c of Eq. 2: actions from one prefix to the next; the whole sequence always counts. 0 asks
    about the whole sequence only (Eq. 1)."""
    count: Literal["once", "per_action"] = "once"
    """Whether a prefix counts once (Eq. 2) or once for each of its c actions, as in the published
    sampling planner, whose softmax is thereby c times sharper."""
    weighted: bool = True
    """Use the task's weights; False shares their sum equally among the questions."""

    def __post_init__(self) -> None:
        """Check the sub-chunk."""
        if self.sub_chunk < 0:
            raise UserError(f"sub_chunk={self.sub_chunk} must be at least 0")
        check_choice("count", self.count, ("once", "per_action"))

    def prefixes(self, horizon: int) -> list[int]:
        """Lengths of the prefixes that count, the whole sequence last.

        Raises:
            ValueError: if there are no actions.
        """
        if horizon < 1:
            raise UserError(f"horizon={horizon} must be at least 1 action to plan for")
        chunk = self.sub_chunk or horizon
        return [*range(chunk, horizon, chunk), horizon]

    def weights(self, answers: Sequence[DesiredAnswer]) -> Tensor:
        """Weight of each question, (Q,)."""
        given = torch.tensor([answer.weight for answer in answers])
        return given if self.weighted else torch.full_like(given, float(given.mean()))


def value_of(
    probabilities: Tensor, answers: Sequence[DesiredAnswer], horizon: int, config: ValueConfig
) -> Tensor:
    """Eq. 2 from the model's answers.

    Args:
        probabilities: p("yes") and p("no"), (..., Q, P, 2), for Q questions after P prefixes.
        answers: the Q desired answers.
        horizon: actions n.
        config: settings.

    Returns:
        Values (...).
    """
    prefixes = config.prefixes(horizon)
    expected = (len(answers), len(prefixes), 2)
    if tuple(probabilities.shape[-3:]) != expected:
        raise UserError(
            f"probabilities have shape {tuple(probabilities.shape)}, expected (..., Q, P, 2) with "
            f"(Q, P, 2) = {expected}"
        )
    wanted = torch.tensor([0 if answer.answer == "yes" else 1 for answer in answers])
    chosen = torch.stack([probabilities[..., q, :, w] for q, w in enumerate(wanted.tolist())], -2)
    lengths = torch.tensor([0, *prefixes]).diff().to(chosen)
    counts = lengths if config.count == "per_action" else torch.ones_like(lengths)
    return (chosen * counts).sum(-1) @ config.weights(answers).to(chosen)


class TaskValue:
    """Value function of a subgoal for planners: frames and desired answers behind one call.

    Args:
        view: B frames that were read.
        subgoals: one for all frames, or one for each; of their ways the likeliest is taken.
        config: settings.
    """

    def __init__(
        self, view: View, subgoals: Subgoal | Sequence[Subgoal], config: ValueConfig | None = None
    ) -> None:
        self.view = view
        self.config = config or ValueConfig()
        steps = [subgoals] * len(view) if isinstance(subgoals, Subgoal) else list(subgoals)
        if len(steps) != len(view):
            raise UserError(f"{len(steps)} subgoals for {len(view)} frames; give one each")
        self.subgoals = on_their_ways(view, steps)
        self._tokens: dict[int, Asked] = {}

    def __call__(self, actions: Tensor) -> Tensor:
        """Values (B, K) of actions (B, K, n, A), physical units; differentiable in them."""
        problems, candidates, horizon, size = actions.shape
        if problems != len(self.view):
            raise UserError(f"{problems} problems for {len(self.view)} frames; give one each")
        prefixes = self.config.prefixes(horizon)
        found = self.view.probabilities(
            actions.reshape(-1, horizon, size),
            self._asked(horizon).repeat(candidates),
            torch.arange(problems).repeat_interleave(candidates),
        ).unflatten(0, (problems, candidates))
        values = []
        for subgoal, answered in zip(self.subgoals, found, strict=True):
            count = len(subgoal.answers)
            grid = answered[:, : count * len(prefixes)].unflatten(1, (count, len(prefixes)))
            values.append(value_of(grid, subgoal.answers, horizon, self.config))
        return torch.stack(values)

    def _asked(self, horizon: int) -> Asked:
        """Every question of every problem after every prefix, as tokens; made once a horizon."""
        if horizon not in self._tokens:
            prefixes = self.config.prefixes(horizon)
            self._tokens[horizon] = self.view.model.ask(
                *[[(a.question, h) for a in s.answers for h in prefixes] for s in self.subgoals]
            )
        return self._tokens[horizon]


def answers_hold(
    view: View, wanted: Sequence[Sequence[DesiredAnswer]], threshold: float | None = None
) -> Tensor:
    """Whether each frame's desired answers all hold now, asked with no actions.

    Args:
        view: B frames that were read.
        wanted: desired answers for each frame.
        threshold: probability that every one must exceed; the card's by default.

    Returns:
        (B,) bool.
    """
    least = present_probabilities(view, wanted)
    limit = view.model.spec.answer_threshold if threshold is None else threshold
    return torch.stack([row.min() > limit for row in least])


def present_probabilities(view: View, wanted: Sequence[Sequence[DesiredAnswer]]) -> list[Tensor]:
    """Probability of each desired answer in the present, a tensor (Q,) per frame."""
    model = view.model
    asked = model.ask(*[[(answer.question, 0) for answer in row] for row in wanted])
    none = torch.zeros(len(view), 0, model.spec.action.size)
    with torch.no_grad():
        found = view.probabilities(none, asked)
    columns = [[0 if answer.answer == "yes" else 1 for answer in row] for row in wanted]
    return [found[r, range(len(c)), c] for r, c in enumerate(columns)]


def on_their_ways(view: View, subgoals: Sequence[Subgoal]) -> list[Subgoal]:
    """Subgoals without ways, with the answers of the way that each frame's present says to take.

    Args:
        view: B frames that were read.
        subgoals: one for each.
    """
    if not any(step.ways for step in subgoals):
        return list(subgoals)
    wanted = [[a for way in step.ways for a in way.when] or step.done for step in subgoals]
    taken = []
    for step, found in zip(subgoals, present_probabilities(view, wanted), strict=True):
        if step.ways:
            parts = found.split([len(way.when) for way in step.ways])
            way = step.ways[int(torch.stack([part.min() for part in parts]).argmax())]
            step = replace(step, answers=step.answers + way.answers, ways=())
        taken.append(step)
    return taken
