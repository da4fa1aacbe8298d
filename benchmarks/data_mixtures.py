"""Does suboptimal data help: Table 2 of arXiv:2510.19818 at this repository's size.

    python benchmarks/data_mixtures.py --run runs/langtable-swm \
        --json benchmarks/results/data_mixtures_langtable.json

Reads what `benchmarks/recipes/langtable-swm-mixtures.sh` measured: how often semantic world models
answer right that were trained on suboptimal episodes, on the expert's, or on both, with several
training seeds each. The mean and the standard deviation over those seeds, as the paper reports.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro

from wm_gym.evaluation.report import measurement_header, write_json

MIXTURES = ("suboptimal", "expert", "combined")
PAPER = {"suboptimal": (85.98, 81.99), "expert": (91.27, 86.49), "combined": (92.92, 88.32)}
"""The paper's accuracies of LangTable in %, in and out of distribution, 3 billion parameters."""
PLACES = ("in_distribution", "out_of_distribution")


@dataclass(frozen=True)
class DataMixturesConfig:
    """Collect the accuracies of the models that langtable-swm-mixtures.sh trained."""

    run: Path
    """Run folder of the recipe; it holds `mixtures`."""
    json: Path | None = None
    """File for the figures."""


def main(config: DataMixturesConfig) -> dict[str, Any]:
    """Read, print and write.

    Raises:
        FileNotFoundError: if no model of a mixture was measured.
        ValueError: if the models of one mixture were measured or trained differently from others.
    """
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {name: [] for name in MIXTURES}
    for path in sorted(config.run.glob("mixtures/*/future_qa.json")):
        parts = re.fullmatch(rf"({'|'.join(MIXTURES)})-(\d+)", path.parent.name)
        if parts:
            found[parts[1]].append((int(parts[2]), json.loads(path.read_text(encoding="utf-8"))))
    if missing := [name for name, models in found.items() if not models]:
        raise FileNotFoundError(
            f"{config.run}/mixtures has no measured model of {', '.join(missing)} (expected "
            "folders such as combined-0 with future_qa.json); run "
            "benchmarks/recipes/langtable-swm-mixtures.sh first"
        )
    lengths = {
        f"{name}-{seed}": steps_of(config.run / "mixtures" / f"{name}-{seed}")
        for name, models in found.items()
        for seed, _ in models
    }
    asked = {
        f"{name}-{seed}": report["future_qa"][PLACES[0]]["questions"]
        for name, models in found.items()
        for seed, report in models
    }
    for what, counts in (("steps of training", lengths), ("questions", asked)):
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"models with different {what} do not compare: {counts}; train and measure them "
                "alike"
            )
    rows = [summary(name, models) for name, models in found.items()]
    for row in rows:
        shown = [
            f"{row[place]['mean']:.1f} ± {row[place]['deviation']:.1f} % "
            f"(paper {row[place]['paper']:.1f})"
            for place in PLACES
        ]
        print(f"{row['mixture']:11} in distribution {shown[0]}, out of it {shown[1]}")
    header = measurement_header(seeds=sorted({seed for one in found.values() for seed, _ in one}))
    report = {
        **header,
        "training_steps": next(iter(lengths.values())),
        "questions": next(iter(asked.values())),
        "rows": rows,
    }
    if config.json is not None:
        print(f"wrote {write_json(config.json, report)}")
    return report


def steps_of(folder: Path) -> int:
    """Steps that the model of a run was trained for, by its card, after what it started from."""
    card = json.loads((folder / "checkpoint" / "card.json").read_text(encoding="utf-8"))
    steps: int = card["recipe"]["settings"]["loop"]["steps"]
    return steps


def summary(name: str, models: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Accuracies of one mixture in %."""
    row: dict[str, Any] = {"mixture": name, "seeds": [seed for seed, _ in models]}
    for place, paper in zip(PLACES, PAPER[name], strict=True):
        each = [100 * report["future_qa"][place]["accuracy"] for _, report in models]
        row[place] = {
            "mean": mean(each),
            "deviation": stdev(each) if len(each) > 1 else 0.0,
            "each": each,
            "paper": paper,
        }
    return row


if __name__ == "__main__":
    main(tyro.cli(DataMixturesConfig))
