"""What a comparison of two worlds says: success rates of every policy and how they agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
    from wm_gym.evaluation.compare_real.run import CompareRealConfig

STATISTICS = {"pearson": pearson, "spearman": spearman, "mmrv": mmrv}


def summarise(
    config: CompareRealConfig,
    policies: Sequence[NamedPolicy],
    imagined: list[list[list[EpisodeRecord]]],
    true: list[list[list[EpisodeRecord]]],
) -> dict[str, Any]:
    """Success rates of every policy and their agreement, over all tasks and for each."""
    dream, real = outcomes(imagined), outcomes(true)  # (P, K, N)
    summary: dict[str, Any] = agreement(config, dream, real)
    summary["policies"] = [
        {
            "name": entry.name,
            "folder": entry.source,
            "noise": entry.noise,
            **_rates(dream[p], real[p]),
            "imagined_errors": sum(r.error is not None for task in imagined[p] for r in task),
            "true_errors": sum(r.error is not None for task in true[p] for r in task),
            "tasks": {task: _rates(dream[p, k], real[p, k]) for k, task in enumerate(config.tasks)},
        }
        for p, entry in enumerate(policies)
    ]
    summary["tasks"] = {
        task: agreement(config, dream[:, k], real[:, k]) for k, task in enumerate(config.tasks)
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


def agreement(config: CompareRealConfig, dream: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    """Statistics over policies, and over episodes, of outcomes (P, …) in two worlds."""
    report: dict[str, Any] = {}
    for name, statistic in STATISTICS.items():
        found: Interval = bootstrap_interval(
            statistic, dream, real, resamples=config.resamples, seed=config.seed
        )
        report[name] = found.estimate
        report[f"{name}_interval"] = [found.low, found.high]
        report[f"{name}_undefined_resamples"] = found.undefined
    report["episode_agreement"] = float((dream == real).mean())
    report["mean_rate_difference"] = float(dream.mean() - real.mean())
    return report
