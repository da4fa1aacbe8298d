"""Fills the table of aims in docs/bridge-models.md from benchmarks/results/*.json.

python benchmarks/bridge_targets.py            # rewrites the block between the marks
python benchmarks/bridge_targets.py --check    # exit status 1 if the document is out of date

What was aimed at stands here; what was reached, and whether that is enough, comes from the results.
"""

from __future__ import annotations

import sys

import tyro
from aims import Aim, results, table
from document_figures import FiguresConfig, fill
from readme_format import ROOT, read

DOCUMENT = "docs/bridge-models.md"
SPACES = ("vjepa", "vae")


def open_loop_aims(space: str) -> list[Aim]:
    """Rollouts of one model under recorded actions."""
    name, model = f"open_loop_bridge_{space}", f"bridge-{space}-mini"
    found = results(name)["open_loop"]
    gripper = found["horizon_10"]["effector_error_px_median"]
    return [
        Aim(f"{model}: gap closed at horizon 10", 0.4, found["horizon_10"]["gap_closed"], name),
        Aim(f"{model}: gap closed at horizon 20", 0.25, found["horizon_20"]["gap_closed"], name),
        Aim(
            f"{model}: gripper off at horizon 10, pixels of 64, median", 3, gripper, name, 1,
            most=True,
        ),
    ]  # fmt: skip


def classifier_aims(space: str) -> list[Aim]:
    """The success classifier on recorded frames, near misses among them."""
    name, model = f"reward_model_bridge_{space}", f"bridge-{space}-mini"
    found = results(name)["reward_model"]["real"]
    return [
        Aim(
            f"{model}: success classifier, {task.replace('_', ' ')}, balanced accuracy",
            0.9, row["balanced_accuracy"], name,
        )
        for task, row in found.items()
    ]  # fmt: skip


def action_aims() -> list[Aim]:
    """How much of the actions inverse dynamics still read when frames are imagined."""
    name = "latent_spaces_bridge"
    return [
        Aim(
            f"{model}: actions read from imagined frames, r at k = 1, as a share of r on encoded "
            "ones",
            0.8, found["idm"]["k_1"]["generated_over_encoder"], name,
        )
        for model, found in results(name)["models"].items()
    ]  # fmt: skip


def comparison_aims(space: str) -> list[Aim]:
    """Imagined against true success; none where it has not been measured."""
    name = f"imagined_vs_real_bridge_{space}"
    found = read(name)
    statistics = ("pearson", "spearman") if found is not None else ()
    return [
        Aim(f"bridge-{space}-mini: {key.capitalize()}, imagined against true", 0.8, value, name)
        for key, value in ((key, (found or {})[key]) for key in statistics)
    ]


def other_aims() -> list[Aim]:
    """The simulator, and what the two models weigh."""
    name = "simulator_step"
    (row,) = (
        row
        for row in results(name)["rows"]
        if (row["simulator"], row["frame_size"]) == ("BridgeSim-v0", "64x64")
    )
    folders = [ROOT / "assets" / f"bridge-{space}-mini" for space in SPACES]
    size = sum(path.stat().st_size for folder in folders for path in folder.iterdir()) / 1e6
    label = "`BridgeSim-v0` with a 64×64 frame, steps per second"
    rate, clock = row["steps_per_processor_second"], row["steps_per_second"]
    return [
        Aim(f"{label} of the processor", 100, rate, name, 0),
        Aim(f"{label} by the clock, on a core shared with others", 100, clock, name, 0),
        Aim("both models on disk, MB (10⁶ bytes)", 15, size, "assets", 1, most=True),
    ]


def figures() -> str:
    """The whole block."""
    aims = [aim for space in SPACES for aim in open_loop_aims(space)]
    aims += [aim for space in SPACES for aim in classifier_aims(space)]
    aims += action_aims()
    aims += [aim for space in SPACES for aim in comparison_aims(space)]
    return "\n".join(table([*aims, *other_aims()]))


def main(config: FiguresConfig) -> int:
    """Rewrite or check the document."""
    return fill(DOCUMENT, figures(), "bridge_targets.py", config)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(FiguresConfig)))
