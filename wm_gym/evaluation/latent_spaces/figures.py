"""The figure of a comparison of latent spaces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.evaluation.open_loop.figures import horizons_of

_VERSIONS = {
    "encoder": "recorded frames",
    "generated": "imagined",
    "shuffled_actions": "imagined, another clip's actions",
    "random_latents": "noise",
}
_SEARCHED = {
    "error": "next frame",
    "shuffled_actions": "another clip's",
    "random_latents": "noise",
    "middle_of_range": "no search",
}


def draw_latent_spaces(report: Mapping[str, Any], path: Path) -> Path:
    """Plot gap closed, IDM correlation, classifier accuracy and recovery error of every model.

    Args:
        report: what `evaluate_latent_spaces` returns.
        path: PNG file to write.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    models = report["models"]
    ks = sorted({k for model in models.values() for k in model["idm"]})
    figure = Figure(figsize=(4.2 * (3 + len(ks)), 4.0), layout="constrained")
    panels = list(figure.subplots(1, 3 + len(ks)))
    gap, *reading, judging, searching = panels
    for name, model in models.items():
        horizons = horizons_of(model["open_loop"])
        closed = [model["open_loop"][f"horizon_{h}"]["gap_closed"] for h in horizons]
        values = [np.nan if value is None else value for value in closed]
        gap.plot(horizons, values, marker="o", label=name)
    gap.axhline(0, color="grey", linewidth=0.8)
    gap.set(xlabel="horizon (steps)", title="gap closed")
    gap.legend(fontsize=8)
    for axis, k in zip(reading, ks, strict=True):
        bars = {
            name: [model["idm"].get(k, {}).get(v, {}) for v in _VERSIONS]
            for name, model in models.items()
        }
        _bars(
            axis,
            {name: [row.get("pearson", np.nan) for row in rows] for name, rows in bars.items()},
            list(_VERSIONS.values()),
            {
                name: [row.get("interval", (np.nan, np.nan)) for row in rows]
                for name, rows in bars.items()
            },
        )
        axis.set(title=f"actions read, r at k = {k.removeprefix('k_')}", ylim=(-0.25, 1))
    accuracies = {}
    for name, model in models.items():
        judged = model.get("reward_model", {})
        accuracies[name] = [
            float(np.mean([task["balanced_accuracy"] for task in judged[where].values()]))
            if judged.get(where)
            else np.nan
            for where in ("real", "imagined")
        ]
    _bars(judging, accuracies, ["recorded frames", "imagined"])
    judging.axhline(0.5, color="grey", linewidth=0.8)
    judging.set(title="success classifier, balanced accuracy", ylim=(0.4, 1))
    errors = {
        name: [model["action_recovery"][key] for key in _SEARCHED] for name, model in models.items()
    }
    _bars(searching, errors, list(_SEARCHED.values()))
    searching.set(title="action recovered by CEM, error (half ranges)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _bars(
    axis: Any,
    values: Mapping[str, list[float]],
    labels: list[str],
    intervals: Mapping[str, list[Any]] | None = None,
) -> None:
    """Groups of bars, one of a group for each model, with intervals if there are any."""
    width = 0.8 / max(len(values), 1)
    for number, (name, heights) in enumerate(values.items()):
        places = np.arange(len(labels)) + (number - (len(values) - 1) / 2) * width
        tops = np.asarray(heights, float)
        axis.bar(places, tops, width, label=name)
        if intervals is not None:
            ends = np.asarray(intervals[name], float).T
            known = np.isfinite(ends).all(0) & np.isfinite(tops)
            reach = np.abs(ends - tops)[:, known]
            axis.errorbar(places[known], tops[known], yerr=reach, fmt="none", color="0.3")
    axis.set_xticks(range(len(labels)), labels, fontsize=7, rotation=20, ha="right")
    axis.legend(fontsize=8)
