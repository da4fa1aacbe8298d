"""Pictures and the table of an open-loop evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from wm_gym.evaluation.open_loop.clips import OpenLoopClips

STRIPS = 4
_LINES = {
    "": "rollout",
    "_reconstruction": "reconstruction",
    "_copy_first": "copy of the first frame",
    "_shuffled_actions": "another clip's actions",
}


def horizons_of(scores: dict[str, Any]) -> list[int]:
    """Horizons that a card's `open_loop` entry has, ascending."""
    return sorted(int(key.removeprefix("horizon_")) for key in scores if key.startswith("horizon_"))


def draw_curves(scores: dict[str, Any], path: Path, title: str) -> Path:
    """Plot PSNR over changed pixels and the gap closed over the horizon."""
    from matplotlib.figure import Figure

    horizons = horizons_of(scores)

    def curve(name: str) -> list[float]:
        values = [scores[f"horizon_{horizon}"][name] for horizon in horizons]
        return [np.nan if value is None else value for value in values]

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for suffix, label in _LINES.items():
        left.plot(horizons, curve(f"changed_psnr{suffix}"), marker="o", label=label)
    left.set(xlabel="horizon (steps)", ylabel="PSNR over changed pixels (dB)", title=title)
    left.legend(fontsize=8)
    right.plot(horizons, curve("gap_closed"), marker="o", label="rollout")
    right.plot(
        horizons,
        curve("gap_closed_shuffled_actions"),
        marker="o",
        label=_LINES["_shuffled_actions"],
    )
    right.axhline(0, color="grey", linewidth=0.8)
    right.set(xlabel="horizon (steps)", ylabel="gap closed", ylim=(-1, 1.05))
    right.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def draw_strips(
    clips: OpenLoopClips, versions: dict[str, np.ndarray], horizons: Sequence[int], folder: Path
) -> list[Path]:
    """Write the first clips as pictures: truth over rollout over reconstruction."""
    from imageio.v3 import imwrite

    from wm_gym.evaluation.strips import frame_strip

    paths = []
    for row in range(min(STRIPS, len(clips.frames))):
        shown = [horizon for horizon in sorted(horizons) if horizon <= clips.steps[row]]
        index = np.asarray(shown, int) - 1
        table = {
            name: np.concatenate([clips.start[row][None], frames[row, index]])
            for name, frames in (
                ("truth", clips.truth),
                ("rollout", versions["rollout"]),
                ("decoder", versions["reconstruction"]),
            )
        }
        path = folder / f"strip_{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        imwrite(path, frame_strip(table, ["start", *(f"step {horizon}" for horizon in shown)]))
        paths.append(path)
    return paths


def print_table(name: str, scores: dict[str, Any]) -> None:
    """Print the figures that decide, one line a horizon."""

    def show(value: float | None, digits: int = 2) -> str:
        return f"{value:8.{digits}f}" if value is not None else "       -"

    print(f"{name}: open loop, mean over clips")
    print(
        " horizon  clips  gap closed  shuffled  changed PSNR   decoder   copy 1st      SSIM"
        "  effector off %"
    )
    for horizon in horizons_of(scores):
        entry = scores[f"horizon_{horizon}"]
        cells = [
            f"{horizon:8d}",
            f"{entry['clips']:6d}",
            "  " + show(entry["gap_closed"]),
            show(entry["gap_closed_shuffled_actions"]),
            "    " + show(entry["changed_psnr"]),
            show(entry["changed_psnr_reconstruction"]),
            " " + show(entry["changed_psnr_copy_first"]),
            show(entry["ssim"], 3),
            "      " + show(entry.get("effector_error_percent_of_width_median")),
        ]
        print(" ".join(cells))
    blocks = scores.get("block_persistence")
    if blocks and blocks["rollout"] is not None:
        print(
            f"no block vanishes or doubles within {blocks['steps']} steps: "
            f"{blocks['rollout']:.0%} of {blocks['clips']} rollouts "
            f"(decoder {blocks['reconstruction']:.0%}, truth {blocks['truth']:.0%})"
        )
    for horizon, kinds in (scores.get("whole_blocks") or {}).items():
        shares = ", ".join(
            f"{kind} {of['rollout']:.0%} of {of['blocks']} (decoder {of['reconstruction']:.0%}, "
            f"copy {of['copy_first']:.0%})"
            for kind, of in kinds.items()
            if of["blocks"]
        )
        print(f"blocks whole at step {horizon.removeprefix('horizon_')}: {shares}")
    speed = scores["speed"]
    print(
        f"{speed['row_steps_per_second']:.1f} rows·steps/s at batch {speed['batch']}, "
        f"{speed['denoising_steps']} denoising steps"
    )
