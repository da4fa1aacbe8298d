"""How far imagined success agrees with true success: correlations, rank violation, intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wm_gym.errors import UserError

Statistic = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: on the data as it is; NaN if it is undefined there.
        low: lower end, NaN if undefined.
        high: upper end, NaN if undefined.
        confidence: e.g. 0.95.
        undefined: fraction of the resamples where the statistic was undefined; they are left out.
    """

    estimate: float
    low: float
    high: float
    confidence: float = 0.95
    undefined: float = 0.0


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a success rate.

    Args:
        successes: how many succeeded.
        trials: of how many.
        confidence: coverage.

    Returns:
        The rate and its interval; with no trials NaN and (0, 1).

    Raises:
        ValueError: if there are more successes than trials, or negative counts.

    Example:
        >>> interval = wilson_interval(8, 10)
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.49, 0.943)
    """
    if not 0 <= successes <= trials:
        raise UserError(f"{successes} successes of {trials} trials; expected 0 to {trials}")
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0, confidence)
    from scipy.stats import binomtest

    found = binomtest(int(successes), int(trials)).proportion_ci(confidence, method="wilson")
    return Interval(successes / trials, float(found.low), float(found.high), confidence)


def balanced_accuracy(said: np.ndarray, true: np.ndarray) -> float:
    """Mean of the true positive and true negative rates of bool (N,); NaN without either class."""
    if true.all() or not true.any():
        return float("nan")
    return float(0.5 * (said[true].mean() + (~said[~true]).mean()))


def pearson(imagined: np.ndarray, true: np.ndarray) -> float:
    """Pearson's correlation of success rates (P,), NaN if one of them is constant.

    Raises:
        ValueError: if the shapes differ or there are fewer than two policies.
    """
    imagined, true = _pair(imagined, true)
    if np.ptp(imagined) == 0 or np.ptp(true) == 0:
        return float("nan")
    from scipy.stats import pearsonr

    return float(np.asarray(pearsonr(imagined, true))[0])


def spearman(imagined: np.ndarray, true: np.ndarray) -> float:
    """Spearman's rank correlation of success rates (P,), NaN if one of them is constant.

    Raises:
        ValueError: if the shapes differ or there are fewer than two policies.
    """
    imagined, true = _pair(imagined, true)
    if np.ptp(imagined) == 0 or np.ptp(true) == 0:
        return float("nan")
    from scipy.stats import spearmanr

    return float(np.asarray(spearmanr(imagined, true))[0])


def mmrv(imagined: np.ndarray, true: np.ndarray) -> float:
    """Mean maximum rank violation of SimplerEnv (arXiv:2405.05941); 0 is perfect, lower is better.

    Two policies violate the rank if the dream orders them otherwise than the truth does, by as much
    as their true rates differ. A policy's worst violation, averaged over policies. As in the paper
    the comparison is "less than", so a tie in the dream counts against the truly worse policy only.

    Args:
        imagined: success rates in the dream, (P,).
        true: success rates in truth, (P,).

    Raises:
        ValueError: if the shapes differ or there are fewer than two policies.

    Example:
        >>> mmrv(np.array([0.1, 0.9, 0.5]), np.array([0.2, 0.6, 0.8]))  # the best two are swapped
        0.13333333333333336
    """
    imagined, true = _pair(imagined, true)
    differs = (imagined[:, None] < imagined) != (true[:, None] < true)  # (P, P)
    return float((np.abs(true[:, None] - true) * differs).max(axis=1).mean())


def _pair(imagined: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    imagined, true = np.asarray(imagined, np.float64), np.asarray(true, np.float64)
    if imagined.shape != true.shape or imagined.ndim != 1 or len(true) < 2:
        raise UserError(
            f"imagined rates have shape {imagined.shape}, true ones {true.shape}; expected the "
            "same (P,) with at least two policies"
        )
    return imagined, true


def bootstrap_interval(
    statistic: Statistic,
    imagined: np.ndarray,
    true: np.ndarray,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic, by resampling policies and episodes.

    Every resample draws policies with replacement and, of every task, start states with
    replacement. A policy keeps its two worlds together and a start keeps all policies and both
    worlds together, because the episodes are paired.

    Args:
        statistic: of the two success rates (P,), e.g. `pearson`.
        imagined: outcomes in the dream, bool (P, N), or (P, K, N) for K tasks of N starts each.
        true: outcomes in truth, the same shape.
        resamples: number of resamples.
        confidence: coverage.
        seed: of the resampling.

    Returns:
        Estimate and interval.

    Raises:
        ValueError: if the shapes differ.
    """
    imagined, true = np.asarray(imagined, np.float64), np.asarray(true, np.float64)
    if imagined.shape != true.shape or imagined.ndim not in (2, 3):
        raise UserError(
            f"imagined outcomes have shape {imagined.shape}, true ones {true.shape}; expected the "
            "same (policies, starts) or (policies, tasks, starts)"
        )
    if imagined.ndim == 2:
        imagined, true = imagined[:, None], true[:, None]
    policies, tasks, starts = imagined.shape
    estimate = statistic(imagined.mean(axis=(1, 2)), true.mean(axis=(1, 2)))
    rng = np.random.default_rng(seed)
    values = np.full(resamples, np.nan)
    for number in range(resamples):
        chosen = rng.integers(policies, size=policies)
        # how often each start is drawn, by task: a weighted mean is the mean of the resample
        counts = rng.multinomial(starts, np.full(starts, 1 / starts), size=tasks)  # (K, N)
        weights = counts / (starts * tasks)
        values[number] = statistic(
            (imagined[chosen] * weights).sum(axis=(1, 2)), (true[chosen] * weights).sum(axis=(1, 2))
        )
    defined = values[np.isfinite(values)]
    undefined = 1 - len(defined) / resamples
    if not len(defined):
        return Interval(estimate, float("nan"), float("nan"), confidence, undefined)
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), confidence, undefined)


def resampled_interval(
    statistic: Callable[[np.ndarray], float],
    count: int,
    *,
    resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of rows, e.g. episodes, drawn anew.

    Args:
        statistic: of row numbers (N,), which may repeat.
        count: number of rows.
        resamples: number of resamples.
        confidence: coverage.
        seed: of the resampling.

    Returns:
        The statistic of all rows, and its interval; ends are NaN if no resample defines it.
    """
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(count, size=count)) for _ in range(resamples)])
    known = values[np.isfinite(values)]
    outside = (1 - confidence) / 2
    low, high = (np.nan, np.nan) if not len(known) else np.quantile(known, [outside, 1 - outside])
    estimate = statistic(np.arange(count))
    return Interval(estimate, float(low), float(high), confidence, 1 - len(known) / resamples)


def paired_difference(
    better: Sequence[np.ndarray],
    base: Sequence[np.ndarray],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """By how much success rates differ where both began in the same places, mean over tasks.

    Percentile bootstrap over the starts of every task; tasks are not drawn. Where outcomes differ
    by the same in every start of every task the resamples do, too, and the interval has no width.

    Args:
        better: outcomes of one policy, a bool (N,) for each task.
        base: those of the other from the same starts.
        resamples: number of resamples.
        confidence: coverage.
        seed: of the resampling.

    Returns:
        Mean over tasks of the difference of the rates, within ±1, and its interval.

    Raises:
        ValueError: if the outcomes of a task are not the same number, or there are none.

    Example:
        >>> found = paired_difference([np.array([1, 1, 0, 1])], [np.array([0, 1, 0, 0])])
        >>> found.estimate, found.low, found.high
        (0.5, 0.0, 1.0)
    """
    if len(better) != len(base) or not better:
        raise UserError(f"{len(better)} tasks and {len(base)}; expected as many, at least one")
    rng = np.random.default_rng(seed)
    estimate, drawn = 0.0, np.zeros(resamples)
    for one, other in zip(better, base, strict=True):
        if np.shape(one) != np.shape(other) or np.ndim(one) != 1 or not np.size(one):
            raise UserError(
                f"outcomes have shapes {np.shape(one)} and {np.shape(other)}; expected the same "
                "(N,) with at least one start"
            )
        difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
        estimate += difference.mean() / len(better)
        rows = rng.integers(difference.size, size=(resamples, difference.size))
        drawn += difference[rows].mean(axis=1) / len(better)
    outside = (1 - confidence) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside])
    return Interval(float(estimate), float(low), float(high), confidence)
