"""What a comparison of two worlds says: success rates of every policy and how they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_gym.errors import UserError
from wm_gym.evaluation.compare_real.controls import action_shares
from wm_gym.metrics.statistics import (
    Interval,
    bootstrap_interval,
    mmrv,
    pearson,
    spearman,
    wilson_interval,
)
from wm_gym.policies.runner import EpisodeRecord

if TYPE_CHECKING:
    from wm_gym.evaluation.compare_real.policies import NamedPolicy

STATISTICS = {"pearson": pearson, "spearman": spearman, "mmrv": mmrv}


@dataclass(frozen=True)
class Bootstrap:
    """Resampling of policies and episodes, for the intervals of statistics.

    Attributes:
        resamples: number of resamples, at least 1.
        seed: seed of the resampling.
    """

    resamples: int
    seed: int


def summarise(
    policies: Sequence[NamedPolicy],
    tasks: Sequence[str],
    imagined: list[list[list[EpisodeRecord]]],
    true: list[list[list[EpisodeRecord]]],
    held: np.ndarray,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Success rates of every policy and their agreement, over all tasks and for each.

    Args:
        policies: P of them.
        tasks: K names.
        imagined: imagined episodes, policies × tasks × starts.
        true: the simulator's, likewise.
        held: starts (K, N) whose goal holds at reset; they are left out.
        bootstrap: resampling of the intervals.

    Returns:
        Entries of the report: statistics, `policies` and `tasks`.

    Raises:
        ValueError: if no start of a task is left.
    """
    dream, real = outcomes(imagined), outcomes(true)  # (P, K, N)
    if held.all(axis=1).any():
        gone = [task for task, row in zip(tasks, held, strict=True) if row.all()]
        raise UserError(
            f"the goal of every start of {', '.join(gone)} holds at reset, so nothing can be "
            "compared; draw other starts with `wm-gym make-start-states`"
        )
    chosen = ~held
    if held.any():
        summary: dict[str, Any] = agreement(dream[:, chosen], real[:, chosen], bootstrap)
    else:
        summary = agreement(dream, real, bootstrap)
    summary["policies"] = [
        {
            "name": entry.name,
            "folder": entry.source,
            "noise": entry.noise,
            **_rates(dream[p][chosen], real[p][chosen]),
            **action_shares([imagined[p], true[p]]),
            "imagined_errors": sum(r.error is not None for task in imagined[p] for r in task),
            "true_errors": sum(r.error is not None for task in true[p] for r in task),
            "tasks": {
                task: _rates(dream[p, k, chosen[k]], real[p, k, chosen[k]])
                for k, task in enumerate(tasks)
            },
        }
        for p, entry in enumerate(policies)
    ]
    summary["tasks"] = {
        task: agreement(dream[:, k, chosen[k]], real[:, k, chosen[k]], bootstrap)
        for k, task in enumerate(tasks)
    }
    return summary


def outcomes(table: list[list[list[EpisodeRecord]]]) -> np.ndarray:
    """Success (P, K, N) bool of policies × tasks × starts."""
    return np.array([[[r.success for r in cell] for cell in row] for row in table])


def _rates(dream: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    for name, succeeded in (("imagined", dream), ("true", real)):
        found = wilson_interval(int(succeeded.sum()), succeeded.size)
        rates[f"{name}_success_rate"] = found.estimate
        rates[f"{name}_interval"] = [found.low, found.high]
        rates[f"{name}_episodes"] = succeeded.size
    return rates


def agreement(dream: np.ndarray, real: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    """Statistics over policies, and over episodes, of outcomes (P, …) in two worlds."""
    report: dict[str, Any] = {}
    for name, statistic in STATISTICS.items():
        found: Interval = bootstrap_interval(
            statistic, dream, real, resamples=bootstrap.resamples, seed=bootstrap.seed
        )
        report[name] = found.estimate
        report[f"{name}_interval"] = [found.low, found.high]
        report[f"{name}_undefined_resamples"] = found.undefined
    report["episode_agreement"] = float((dream == real).mean())
    report["mean_rate_difference"] = float(dream.mean() - real.mean())
    return report
