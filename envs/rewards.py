"""Rewards of imagined episodes: a success classifier, a distance regressor, a judge, or none.

Questions about frames are in `semantic_reward`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from wm_gym.instructions import Goal
    from wm_gym.judges.success_classifier import RewardModel
    from wm_gym.judges.verdicts import Clip, Judge

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


@dataclass(frozen=True)
class Seen:
    """What a reward may look at of B rows after a step; only what it asks for is made.

    Attributes:
        latents: normalised latents (B, h, w, D).
        frames: gives the newest frames, (B, H, W, 3) uint8.
        clips: gives the whole episodes, as far as `Reward.clip_frames` asked for them.
        instructions: what each row's episode asks for.
    """

    latents: torch.Tensor
    frames: Callable[[], np.ndarray]
    clips: Callable[[], list[Clip]]
    instructions: Sequence[str]


class Reward(ABC):
    """Scores what B rows show against a goal each.

    Attributes:
        name: named in `info["judge"]`.
        needs_goal: whether an episode without an instruction is refused.
        judged_at_horizon: True if the episode is scored once, at its horizon, and terminates there
            (truncating would make an agent bootstrap onto the judged reward).
        task: the only task that it judges, or "any".
        clip_frames: how many frames of a whole episode it looks at, 0 for all; None if it looks at
            the newest alone.
    """

    name: str
    needs_goal: bool = True
    judged_at_horizon: bool = False
    task: str = "any"
    clip_frames: int | None = None

    @abstractmethod
    def score(
        self,
        seen: Seen,
        goals: Sequence[Goal],
        recent: Sequence[Sequence[float]] | None = None,
    ) -> Scores:
        """Judge what B rows show.

        Args:
            seen: latents, frames and clips of the rows.
            goals: one per row, none where the reward needs none.
            recent: `Scores.recent` of the step before, by row; nothing at an episode's start.
        """

    @abstractmethod
    def value(self, scores: Scores, previous_m: np.ndarray) -> np.ndarray:
        """Rewards (B,) of a step, given the scores after it and the distances before it."""

    def at_start(self, seen: Seen, goals: Sequence[Goal]) -> Scores:
        """Say whether goals hold in the frame that episodes begin with; no opinion by default."""
        del goals
        return no_scores(len(seen.instructions))


def no_scores(rows: int) -> Scores:
    """No opinion on any of B rows."""
    return Scores(np.full(rows, np.nan), np.zeros(rows, bool), np.full(rows, np.nan), [""] * rows)


class NoReward(Reward):
    """Always 0; nothing is judged, so `is_success` stays False."""

    name = "none"
    needs_goal = False

    def score(
        self,
        seen: Seen,
        goals: Sequence[Goal],
        recent: Sequence[Sequence[float]] | None = None,
    ) -> Scores:
        """No opinion."""
        return no_scores(len(seen.instructions))

    def value(self, scores: Scores, previous_m: np.ndarray) -> np.ndarray:
        """Zeros."""
        return np.zeros(len(previous_m))


class ClassifierReward(Reward):
    """1 in the step in which the classifier beside the card sees success, else 0.

    The score is the mean probability over the steps that its `EpisodeRule` says.

    Args:
        model: classifier, distance regressor and thresholds.
    """

    name = "classifier"
    measures_distance = False

    def __init__(self, model: RewardModel) -> None:
        self.model = model

    def score(
        self,
        seen: Seen,
        goals: Sequence[Goal],
        recent: Sequence[Sequence[float]] | None = None,
    ) -> Scores:
        """Mean probability of success over the rule's steps, and distance to the goal."""
        goals, rule = list(goals), self.model.rule
        newest, distance = self._judged(seen, goals)
        before = recent if recent is not None else [[] for _ in goals]
        kept = [[*b, float(p)][-rule.window :] for b, p in zip(before, newest, strict=True)]
        score = np.array([sum(row) / rule.window for row in kept])  # as `EpisodeRule.smoothed`
        threshold = np.array([rule.thresholds[goal.task] for goal in goals])
        of_steps = f" of the last {rule.window} steps" if rule.window > 1 else ""
        rationale = [
            f"probability {p:.3f}{of_steps} against threshold {t:.3f} of task {goal.task!r}"
            for p, t, goal in zip(score, threshold, goals, strict=True)
        ]
        return Scores(score, score > threshold, distance, rationale, recent=kept)

    def at_start(self, seen: Seen, goals: Sequence[Goal]) -> Scores:
        """Judge single frames, by the thresholds for single frames."""
        score, distance = self._judged(seen, list(goals))
        threshold = np.array([self.model.thresholds[goal.task] for goal in goals])
        return Scores(score, score > threshold, distance, [""] * len(score))

    def _judged(self, seen: Seen, goals: list[Goal]) -> tuple[np.ndarray, np.ndarray]:
        """Probability of success and distance in metres of single frames, (B,) each."""
        probability, metres = self.model.judge(seen.latents, goals)
        distance = metres.double().cpu().numpy()
        if not self.measures_distance:
            distance = np.full(len(goals), np.nan)
        return probability.double().cpu().numpy(), distance

    def value(self, scores: Scores, previous_m: np.ndarray) -> np.ndarray:
        """1 where successful."""
        return scores.success.astype(np.float64)


class DistanceReward(ClassifierReward):
    """Dense: metres by which the predicted distance to the goal fell, plus 1 at success."""

    name = "distance"
    measures_distance = True

    def value(self, scores: Scores, previous_m: np.ndarray) -> np.ndarray:
        """Progress in metres, plus the sparse reward."""
        return previous_m - scores.distance_m + scores.success


class JudgeReward(Reward):
    """The score that a judge gives a whole episode, in the step in which it ends; before, 0.

    Args:
        judge: who is asked.
        name: the reward's name, `judge:` and the judge's.
    """

    judged_at_horizon = True

    def __init__(self, judge: Judge, name: str) -> None:
        self.asked, self.name = judge, name
        self.clip_frames = judge.frames

    def score(
        self,
        seen: Seen,
        goals: Sequence[Goal],
        recent: Sequence[Sequence[float]] | None = None,
    ) -> Scores:
        """Judge B whole episodes.

        Raises:
            JudgeError: if there is no verdict on an episode, which then has no reward.
        """
        from wm_gym.chat.requests import ChatError
        from wm_gym.judges.verdicts import JudgeError

        try:
            verdicts = self.asked.judge(seen.clips(), seen.instructions)
        except ChatError as error:
            raise JudgeError(f"reward {self.name!r}: {error}; reset to go on") from error
        pairs = zip(verdicts, seen.instructions, strict=True)
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
