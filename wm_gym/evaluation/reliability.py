"""Whether stated probabilities come true: reliability by bins, calibration error, and the plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torchmetrics.functional.classification import binary_calibration_error

from wm_gym.evaluation.output_files import save_figure

BINS = 10
Rows = list[dict[str, float | int]]


def reliability(stated: np.ndarray, true: np.ndarray) -> Rows:
    """Stated and true share of "yes", by bins of what was stated; bins without cases are left out.

    Args:
        stated: probabilities (n,).
        true: whether it was so, bool (n,).

    Returns:
        Per bin `stated` and `true`, both means, and the number of `cases`.
    """
    number = np.minimum((stated * BINS).astype(int), BINS - 1)
    rows: Rows = []
    for index in range(BINS):
        chosen = number == index
        if chosen.any():
            rows.append(
                {
                    "stated": float(stated[chosen].mean()),
                    "true": float(true[chosen].mean()),
                    "cases": int(chosen.sum()),
                }
            )
    return rows


def calibration_error(stated: np.ndarray, true: np.ndarray) -> float:
    """Expected calibration error: mean distance of stated and true shares over the bins' cases.

    Args:
        stated: probabilities (n,).
        true: whether it was so, bool (n,).
    """
    return float(
        binary_calibration_error(
            torch.from_numpy(np.asarray(stated, np.float64)),
            torch.from_numpy(np.asarray(true).astype(int)),
            n_bins=BINS,
        )
    )


def plot_reliability(
    curves: Mapping[str, Sequence[Mapping[str, float | int]]], path: Path, what: str
) -> None:
    """Draw stated against true shares.

    Args:
        curves: rows of `reliability` by label; a single one needs no legend.
        path: picture to write.
        what: names the outcome on the axes, e.g. '"yes"'.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    for label, rows in curves.items():
        sizes = [20 + 180 * row["cases"] / max(r["cases"] for r in rows) for row in rows]
        stated, true = ([row[key] for row in rows] for key in ("stated", "true"))
        axes.scatter(stated, true, s=sizes, label=label, alpha=0.7, clip_on=False)
    axes.set(xlabel=f"stated probability of {what}", ylabel=f"true share of {what}")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    if len(curves) > 1:
        axes.legend(fontsize="small")
    save_figure(figure, path, dpi=150)
