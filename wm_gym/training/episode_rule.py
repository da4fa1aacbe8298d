"""When an episode whose every step is asked about counts as a success: chosen on whole episodes.

A classifier that is right about 95 of 100 frames sees success in most failures of fifty steps. So
what an environment goes by is chosen where it is used, on episodes: over how many steps the
probability is averaged, and the threshold.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wm_gym.data.latent_clips import read_episode_facts
from wm_gym.judges.success_classifier import EpisodeRule, SuccessClassifier
from wm_gym.metrics.statistics import balanced_accuracy
from wm_gym.training.labelled_latents import CANDIDATES, LabelledLatents

WINDOWS = (1, 3, 5, 10)
"""Numbers of steps that are tried."""
IN_TIME = 10
"""Steps after its first success within which an episode is seen in time to be one. An expert rests
on what it has done, and a mean over many steps sees that in the end; an episode that succeeds
shortly before its horizon has no such time left."""


@dataclass(frozen=True)
class ScoredEpisode:
    """What a classifier says of an episode, and the truth.

    Attributes:
        task: the episode's own.
        probabilities: of success under its own goal after each of its T steps, (T,).
        success_step: the first of them after which it was one, counted from 0; None for a failure.
    """

    task: str
    probabilities: np.ndarray
    success_step: int | None

    @property
    def success(self) -> bool:
        """Whether it was one after any step."""
        return self.success_step is not None


Part = tuple[np.ndarray, Sequence[str]]
"""Rows of labelled latents that follow each other in an episode, and its [task, first, second]."""


def episodes_of(folder: Path) -> list[Part]:
    """The episodes in a folder of latents, without their starts, which nobody is asked about."""
    bounds = np.load(folder / "bounds.npy")
    rows = [np.arange(a + 1, b) for a, b in itertools.pairwise(bounds)]
    goals = read_episode_facts(folder).goals
    return [(some, goal) for some, goal in zip(rows, goals, strict=True) if len(some)]


@torch.inference_mode()
def score_episodes(
    network: SuccessClassifier, data: LabelledLatents, parts: Iterable[Part]
) -> list[ScoredEpisode]:
    """Ask about every step of episodes under the goal that each was recorded for."""
    found = []
    for rows, goal in parts:
        column = data.goals.index([*goal, ""][:3])  # a goal of one object has an empty second one
        latents, numbers, success, _ = data.batch(rows, np.full(len(rows), column))
        logits, _ = network(latents, numbers)
        steps = np.flatnonzero(success.numpy())
        first = int(steps[0]) if len(steps) else None
        found.append(ScoredEpisode(goal[0], logits.sigmoid().numpy(), first))
    return found


def _by_task(episodes: Iterable[ScoredEpisode]) -> dict[str, list[ScoredEpisode]]:
    """Episodes of tasks that were both solved and failed."""
    tasks: dict[str, list[ScoredEpisode]] = {}
    for episode in episodes:
        tasks.setdefault(episode.task, []).append(episode)
    return {t: some for t, some in tasks.items() if len({e.success for e in some}) == 2}


def _highest(
    rule: EpisodeRule, episodes: Sequence[ScoredEpisode], patience: int | None = None
) -> np.ndarray:
    """The highest mean of each episode; with `patience`, up to so many steps after its success."""
    found = []
    for episode in episodes:
        until = len(episode.probabilities)
        if patience is not None and episode.success_step is not None:
            until = episode.success_step + patience + 1
        found.append(rule.smoothed(episode.probabilities)[:until].max())
    return np.array(found)


def choose_rule(
    worlds: Sequence[Sequence[ScoredEpisode]],
    windows: Sequence[int] = WINDOWS,
    patience: int | None = None,
) -> EpisodeRule | None:
    """The rule that is right most often, on average over the worlds and tasks.

    Args:
        worlds: episodes of each kind of frames that will be asked about, recorded and imagined.
        windows: numbers of steps to try; the first of equals is taken.
        patience: steps after its first success within which a success has to be seen; None takes
            as many as the episode has.

    Returns:
        The rule; None if no world has a task that was both solved and failed. The threshold of a
        task is the median of those that are best.
    """
    sorted_worlds = [_by_task(world) for world in worlds]
    best, chosen = -1.0, None
    for window in windows:
        rule = EpisodeRule(window, {})
        curves: dict[str, list[np.ndarray]] = {}
        for world in sorted_worlds:
            for task, episodes in world.items():
                highest = _highest(rule, episodes, patience)
                truth = np.array([episode.success for episode in episodes])
                curve = [balanced_accuracy(highest > c, truth) for c in CANDIDATES]
                curves.setdefault(task, []).append(np.array(curve))
        means = {task: np.mean(found, 0) for task, found in curves.items()}
        if means and (score := float(np.mean([m.max() for m in means.values()]))) > best + 1e-9:
            best = score
            chosen = EpisodeRule(
                window,
                {
                    task: round(float(np.median(CANDIDATES[mean > mean.max() - 1e-9])), 3)
                    for task, mean in means.items()
                },
            )
    return chosen


def measure_rule(
    rule: EpisodeRule, episodes: Iterable[ScoredEpisode]
) -> dict[str, dict[str, float]]:
    """How often a rule is right about episodes, by task.

    Returns:
        By task that was both solved and failed: `episodes`, `successes`, `balanced_accuracy`,
        `false_positive_rate`, `false_negative_rate`, and `not_seen_in_time_rate`: successes that
        were not seen within `IN_TIME` steps.
    """
    report = {}
    for task, some in _by_task(episodes).items():
        seen = _highest(rule, some) > rule.thresholds[task]
        in_time = _highest(rule, some, IN_TIME) > rule.thresholds[task]
        truth = np.array([episode.success for episode in some])
        report[task] = {
            "episodes": len(some),
            "successes": int(truth.sum()),
            "balanced_accuracy": balanced_accuracy(seen, truth),
            "false_positive_rate": float(seen[~truth].mean()),
            "false_negative_rate": float((~seen[truth]).mean()),
            "not_seen_in_time_rate": float((~in_time[truth]).mean()),
        }
    return report


def complete(rule: EpisodeRule, thresholds: Mapping[str, float]) -> EpisodeRule:
    """The rule with a threshold for every task: that of frames where episodes say nothing."""
    return EpisodeRule(rule.window, {**thresholds, **rule.thresholds})
