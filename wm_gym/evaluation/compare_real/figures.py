"""The scatter plot of imagined against true success."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def draw_comparison(report: dict[str, Any], path: Path) -> Path:
    """Plot every policy and task, imagined over true success, with Wilson intervals.

    Args:
        report: what `compare_real` returns.
        path: PNG file to write.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    blocks = [(report, report["world_model"]["name"])]
    if "bad_world_model" in report:
        blocks.append((report["bad_world_model"], "deliberately bad world model"))
    figure = Figure(figsize=(4.8 * len(blocks), 5.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(blocks), sharey=True))
    for axis, (block, title) in zip(axes, blocks, strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
        for k, task in enumerate(report["tasks"]):
            rates = [policy["tasks"][task] for policy in block["policies"]]
            axis.errorbar(
                [rate["true_success_rate"] for rate in rates],
                [rate["imagined_success_rate"] for rate in rates],
                xerr=_errors(rates, "true"),
                yerr=_errors(rates, "imagined"),
                fmt="so^Dv"[k % 5],
                color=f"C{k}",
                markersize=5,
                elinewidth=0.7,
                alpha=0.8,
                label=task,
            )
        figures = ", ".join(
            f"{label} {_number(block[name])}"
            for name, label in (("pearson", "r"), ("spearman", "ρ"), ("mmrv", "MMRV"))
        )
        axis.set_title(f"{title}\n{figures}", fontsize=10)
        axis.set_xlabel("true success rate (simulator)")
        axis.set_xlim(-0.03, 1.03)
        axis.set_ylim(-0.03, 1.03)
        axis.set_aspect("equal")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8
    )  # below, where it hides no policy
    axes[0].set_ylabel("imagined success rate (world model)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    return path


def _errors(rates: list[dict[str, Any]], world: str) -> np.ndarray:
    """Distances to the ends of the intervals, (2, P)."""
    middle = np.array([rate[f"{world}_success_rate"] for rate in rates])
    ends = np.array([rate[f"{world}_interval"] for rate in rates]).T
    return np.abs(ends - middle)


def _number(value: float | None) -> str:
    return "undefined" if value is None or not np.isfinite(value) else f"{value:.2f}"
