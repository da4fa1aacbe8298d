"""Rewards of imagined episodes: a success classifier, a distance regressor, a judge, or none.

Questions about frames are in `semantic_reward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from wm_gym.errors import UserError

if TYPE_CHECKING:
    import torch

    from wm_gym.checkpoints import Checkpoint
    from wm_gym.envs.semantic_reward import SemanticReward
    from wm_gym.instructions import Goal
    from wm_gym.judges.success_classifier import RewardModel
    from wm_gym.judges.verdicts import Clip, Judge
    from wm_gym.world_model import LatentWorldModel

JUDGE_PREFIX = "judge:"
SEMANTIC_PREFIX = "semantic:"
VERDICT_FACTS = ("prompt", "model", "revision")


@dataclass(frozen=True)
class Scores:
    """What a reward says about one batch of B frames.

    Attributes:
        score: (B,) in [0, 1], how sure it is of success.
        success: (B,) bool.
        distance_m: (B,) metres to the goal, NaN where it has no opinion.
        rationale: one sentence per row.
        facts: what else stands in `info["judge"]`, by row; nothing by default.
        recent: what the reward is to be handed back after the next step, by row; None if nothing.
    """

    score: np.ndarray
    success: np.ndarray
    distance_m: np.ndarray
    rationale: list[str] = field(default_factory=list)
    facts: list[dict[str, str]] = field(default_factory=list)
    recent: list[list[float]] | None = None

    def by_row(self) -> list[tuple[float, bool, float, str, dict[str, str]]]:
        """The fields, row by row."""
        facts = self.facts or [{} for _ in self.rationale]
        columns = (self.score, self.success, self.distance_m, self.rationale, facts)
        return list(zip(*columns, strict=True))


class Reward(Protocol):
    """Scores latents against goals.

    Attributes:
        name: named in `info["judge"]`.
        needs_goal: whether an episode without an instruction is refused.
        judged_at_horizon: True if the episode is scored once, at its horizon, and terminates there
            (truncating would make an agent bootstrap onto the judged reward).
    """

    name: str
    needs_goal: bool
    judged_at_horizon: bool

    def judge(
        self,
        latents: torch.Tensor,
        goals: Sequence[Goal],
        recent: Sequence[Sequence[float]] | None = None,
    ) -> Scores:
        """Judge normalised latents (B, h, w, D).

        Args:
            latents: the newest ones.
            goals: one per row.
            recent: `Scores.recent` of the step before, by row; nothing at an episode's start.
        """
        ...

    def value(self, scores: Scores, previous_m: np.ndarray) -> np.ndarray:
        """Rewards (B,) of a step, given the scores after it and the distances before it."""
        ...


class NoReward:
    """Always 0; nothing is judged, so `is_success` stays False."""

    name = "none"
    needs_goal = False
    judged_at_horizon = False

    def judge(
        self,
        latents: torch.Tensor,
        goals: Sequence[Goal],
        recent: Sequence[Sequence[float]] | None = None,
    ) -> Scores:
        """No opinion."""
        rows = len(latents)
        nothing = np.zeros(rows, np.float64)
        return Scores(nothing, np.zeros(rows, bool), np.full(rows, np.nan), [""] * rows)

    def value(self, scores: Scores, previous_m: np.ndarray) -> np.ndarray:
        """Zeros."""
        return np.zeros(len(previous_m))


class ClassifierReward:
    """1 in the step in which the classifier beside the card sees success, else 0.

    The score is the mean probability over the steps that its `EpisodeRule` says.

    Args:
        model: classifier, distance regressor and thresholds.
    """

    name = "classifier"
    needs_goal = True
    judged_at_horizon = False

    def __init__(self, model: RewardModel) -> None:
        self.model = model

    def judge(
        self,
        latents: torch.Tensor,
        goals: Sequence[Goal],
        recent: Sequence[Sequence[float]] | None = None,
    ) -> Scores:
        """Probability of success and distance to the goal."""
        goals, rule = list(goals), self.model.rule
        newest = self.model.probability(latents, goals).double().cpu().numpy()
        before = recent if recent is not None else [[] for _ in goals]
        kept = [[*b, float(p)][-rule.window :] for b, p in zip(before, newest, strict=True)]
        score = np.array([sum(row) / rule.window for row in kept])  # as `EpisodeRule.smoothed`
        threshold = np.array([rule.thresholds[goal.task] for goal in goals])
        of_steps = f" of the last {rule.window} steps" if rule.window > 1 else ""
        rationale = [
            f"probability {p:.3f}{of_steps} against threshold {t:.3f} of task {goal.task!r}"
            for p, t, goal in zip(score, threshold, goals, strict=True)
        ]
        distance = self._distance(latents, goals)
        return Scores(score, score > threshold, distance, rationale, recent=kept)

    def value(self, scores: Scores, previous_m: np.ndarray) -> np.ndarray:
        """1 where successful."""
        return scores.success.astype(np.float64)

    def _distance(self, latents: torch.Tensor, goals: list[Goal]) -> np.ndarray:
        return np.full(len(goals), np.nan)


class DistanceReward(ClassifierReward):
    """Dense: metres by which the predicted distance to the goal fell, plus 1 at success."""

    name = "distance"

    def value(self, scores: Scores, previous_m: np.ndarray) -> np.ndarray:
        """Progress in metres, plus the sparse reward."""
        return previous_m - scores.distance_m + scores.success

    def _distance(self, latents: torch.Tensor, goals: list[Goal]) -> np.ndarray:
        return self.model.distance(latents, goals).double().cpu().numpy()


class JudgeReward:
    """The score that a judge gives a whole episode, in the step in which it ends; before, 0.

    Args:
        judge: who is asked.
        name: the reward's name, `judge:` and the judge's.
    """

    needs_goal = True
    judged_at_horizon = True

    def __init__(self, judge: Judge, name: str) -> None:
        self.asked, self.name = judge, name

    def judge_clips(self, clips: Sequence[Clip], instructions: Sequence[str]) -> Scores:
        """Judge B whole episodes.

        Raises:
            JudgeError: if there is no verdict on an episode, which then has no reward.
        """
        from wm_gym.chat.requests import ChatError
        from wm_gym.judges.verdicts import JudgeError

        try:
            verdicts = self.asked.judge(clips, instructions)
        except ChatError as error:
            raise JudgeError(f"reward {self.name!r}: {error}; reset to go on") from error
        pairs = zip(verdicts, instructions, strict=True)
        failed = [f"{verdict.error} ({text!r})" for verdict, text in pairs if verdict.error]
        if failed:
            raise JudgeError(
                f"reward {self.name!r} has no verdict on {len(failed)} of {len(verdicts)} episodes "
                f"that ended: {'; '.join(failed)}; reset to go on"
            )
        return Scores(
            np.array([verdict.score for verdict in verdicts]),
            np.array([verdict.success for verdict in verdicts]),
            np.full(len(verdicts), np.nan),
            [verdict.rationale for verdict in verdicts],
            [{name: getattr(verdict, name) for name in VERDICT_FACTS} for verdict in verdicts],
        )

    def value(self, scores: Scores, previous_m: np.ndarray) -> np.ndarray:
        """The scores themselves."""
        return scores.score


REWARDS = ("classifier", "distance", "none")


def check_reward_name(name: str) -> None:
    """Refuse a reward that does not exist, before a model is loaded for it.

    Raises:
        ValueError: naming those that exist, or what a judge's name should be.
    """
    if name.startswith(JUDGE_PREFIX):
        from wm_gym.judges.registry import read_judge_name

        read_judge_name(name.removeprefix(JUDGE_PREFIX))
    elif name.startswith(SEMANTIC_PREFIX):
        from wm_gym.envs.semantic_reward import read_semantic_reward

        read_semantic_reward(name)
    elif name not in REWARDS:
        raise UserError(
            f"reward={name!r} does not exist; expected one of {', '.join(map(repr, REWARDS))}, "
            "'judge:' and the name of a judge, or 'semantic:<task>?checkpoint=FOLDER'"
        )


def make_reward(
    name: str,
    checkpoint: Checkpoint | None,
    device: str = "cpu",
    model: LatentWorldModel | None = None,
) -> Reward | JudgeReward | SemanticReward:
    """The reward of a name.

    Args:
        name: one of `REWARDS`, "judge:" and the name of a judge, or as `read_semantic_reward` says.
        checkpoint: the opened checkpoint, which holds the classifier; None if there is no folder.
        device: torch device of the latents to judge.
        model: the world model in use, for judges that need it.

    Raises:
        ValueError: if the name is unknown, the checkpoint has no classifier, or a semantic model
            does not fit the world model.
        JudgeError: if the judge needs something that is not there.
    """
    check_reward_name(name)
    if name == "none":
        return NoReward()
    if name.startswith(JUDGE_PREFIX):
        from wm_gym.judges.registry import JudgeContext, make_judge

        context = JudgeContext(None if model is None else lambda: model, device=device)
        return JudgeReward(make_judge(name.removeprefix(JUDGE_PREFIX), context), name)
    if name.startswith(SEMANTIC_PREFIX):
        from wm_gym.envs.semantic_reward import SemanticReward

        if model is None:
            raise UserError(f"reward={name!r} needs the world model whose frames are scored")
        return SemanticReward(name, model.spec, device)
    if checkpoint is None or checkpoint.spec.reward is None:
        where = "this model" if checkpoint is None else str(checkpoint.folder)
        raise UserError(
            f"reward={name!r} needs a reward model, and {where} has none beside its card; make "
            "the environment with reward='none', or train one with `wm-gym train reward`"
        )
    from wm_gym.judges.success_classifier import RewardModel

    classifier = RewardModel.from_checkpoint(checkpoint, device)
    return ClassifierReward(classifier) if name == "classifier" else DistanceReward(classifier)
